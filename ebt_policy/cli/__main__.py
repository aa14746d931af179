"""`python -m ebt_policy.cli`, for example behind `accelerate launch`."""

from ebt_policy.cli.main import main

main()
