# SPDX-License-Identifier: Apache-2.0
"""`reward_funcs` for TRL's online trainers (GRPO, RLOO).

TRL calls each function with keywords: `prompts`, `completions` and every further column of the dataset as a list. The
functions of one `reward_funcs` share the answer to a batch, so ten components are one request.
"""

from .client import DEFAULT_URL, LABELS, RewardClient, messages_of, reply_of


class _Batch:
    """The scores of the batch that was asked for last."""

    def __init__(self, client):
        self.client = client
        self.samples = None
        self.scores = None

    def of(self, prompts, completions, columns):
        samples = []
        for idx, (prompt, completion) in enumerate(zip(prompts, completions)):
            labels = {name: columns[name][idx] for name in LABELS if columns.get(name) is not None}
            labels = {name: label for name, label in labels.items() if label is not None}
            samples.append({"messages": messages_of(prompt), "reply": reply_of(completion), "labels": labels})
        if samples != self.samples:
            self.scores = self.client.score(samples)
            self.samples = samples
        return self.scores


def reward_funcs(url=DEFAULT_URL, components=None, client=None):
    """One function a component, `None` where it does not apply. `components` names some of them.

    Behind a closed gate every component is 0, so the gates hold under any weights.
    """
    client = client or RewardClient(url)
    known = client.names()
    for name in components or []:
        if name not in known:
            raise ValueError(f"there is no component `{name}`: use some of {', '.join(known)}")
    batch = _Batch(client)

    def function(name):
        def reward(prompts, completions, **columns):
            return [score["components"][name] for score in batch.of(prompts, completions, columns)]

        reward.__name__ = name
        return reward

    return [function(name) for name in components or known]


def total_reward(url=DEFAULT_URL, client=None):
    """One function for the whole reward, 0 to 1."""
    batch = _Batch(client or RewardClient(url))

    def rapport_reward(prompts, completions, **columns):
        return [score["reward"] for score in batch.of(prompts, completions, columns)]

    return rapport_reward
