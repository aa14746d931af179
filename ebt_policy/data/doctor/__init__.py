"""Looks for faults in a dataset before they cost a training. `examine` is the entrance."""

from ebt_policy.data.doctor.examine import examine as examine
from ebt_policy.data.doctor.findings import Examination as Examination
from ebt_policy.data.doctor.findings import Finding as Finding
from ebt_policy.data.doctor.report import print_examination as print_examination
from ebt_policy.data.doctor.report import print_findings as print_findings
