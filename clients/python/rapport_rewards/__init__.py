"""Rewards of Rapport for Python trainers: see the README beside this package."""

from .client import RewardClient, RewardError

__all__ = ["RewardClient", "RewardError"]
