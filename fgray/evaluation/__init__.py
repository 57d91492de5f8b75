"""Evaluates a model on benchmarks: plan, embed, score, summarise, report."""

from fgray.evaluation.plan import Plan, plan_evaluation
from fgray.evaluation.run import RunResult, evaluate

__all__ = ["Plan", "RunResult", "evaluate", "plan_evaluation"]
