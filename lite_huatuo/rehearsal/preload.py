"""Everything that the commands of a rehearsal import, for the server that they are forked from. Imports only."""

from __future__ import annotations

import trl  # noqa: F401

import lite_huatuo.evaluation.run
import lite_huatuo.evaluation.students
import lite_huatuo.export.merge
import lite_huatuo.report.page
import lite_huatuo.training.ppo
import lite_huatuo.training.sft  # noqa: F401
