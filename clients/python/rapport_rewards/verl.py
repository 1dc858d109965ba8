# SPDX-License-Identifier: Apache-2.0
"""`compute_score` for verl: `reward.custom_reward_function.path=THIS_FILE`, `name=compute_score`.

verl loads this file by its path, so it finds the rest of the package beside itself.
"""

import os
import sys

if __package__ in (None, ""):
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from rapport_rewards.client import DEFAULT_URL, RewardClient, messages_of  # noqa: E402

# verl logs numbers only: what does not apply to a reply is neutral.
NEUTRAL = 0.5


def compute_score(data_source, solution_str, ground_truth, extra_info=None, url=None, **_unused):
    """`{"score", "gated", <component>: ..}`, all floats.

    `extra_info["prompt"]` (text or messages) is the conversation and `extra_info["labels"]` its labels; a `ground_truth`
    that is text or a list is the right answer or answers.
    """
    extra_info = extra_info or {}
    labels = dict(extra_info.get("labels") or {})
    if ground_truth and "answers" not in labels:
        labels["answers"] = [ground_truth] if isinstance(ground_truth, str) else list(ground_truth)
        labels.setdefault("kind", "fact_real")
    sample = {"messages": messages_of(extra_info.get("prompt") or ""), "reply": solution_str, "labels": labels}
    client = RewardClient(url or os.environ.get("RAPPORT_REWARD_URL", DEFAULT_URL))
    score = client.score([sample])[0]
    result = {"score": score["reward"], "gated": float(score["failed"] is not None)}
    for name, value in score["components"].items():
        result[name] = NEUTRAL if value is None else value
    return result
