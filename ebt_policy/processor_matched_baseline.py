"""The matched baselines see and act through the same processors as EBT."""

from ebt_policy.processor_ebt import make_ebt_pre_post_processors as make_matched_baseline_pre_post_processors

__all__ = ["make_matched_baseline_pre_post_processors"]
