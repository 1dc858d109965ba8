# SPDX-License-Identifier: Apache-2.0
"""A client of `rapport reward serve`. Start reading at `RewardClient.score`."""

import json
import time
import urllib.error
import urllib.parse
import urllib.request

DEFAULT_URL = "http://127.0.0.1:8460"
LABELS = ("feeling", "need", "kind", "answers")
# What the server takes in one request is more; this keeps bodies small.
SAMPLES_AT_ONCE = 256
PAUSE_S = 0.5


class RewardError(Exception):
    """The server is not there, or refuses what it was sent."""


class RewardClient:
    def __init__(self, url=DEFAULT_URL, timeout_s=60.0, tries=3):
        self.url = url.rstrip("/")
        self.timeout_s = timeout_s
        self.tries = tries
        # A server on this machine is not behind a proxy.
        host = urllib.parse.urlsplit(self.url).hostname
        handlers = [urllib.request.ProxyHandler({})] if host in ("127.0.0.1", "::1", "localhost") else []
        self._opener = urllib.request.build_opener(*handlers)

    def score(self, samples):
        """One `{"reward", "failed", "components"}` a sample, in order.

        A sample is `{"messages": [{"role", "content"}, ..], "reply": text, "labels": {..}}`.
        """
        scores = []
        for start in range(0, len(samples), SAMPLES_AT_ONCE):
            part = samples[start : start + SAMPLES_AT_ONCE]
            found = self._post("/score", {"samples": part})["scores"]
            if len(found) != len(part):
                raise RewardError(f"{self.url} gave {len(found)} scores for {len(part)} samples")
            scores.extend(found)
        return scores

    def names(self):
        """The components that the server knows."""
        return self._post("/score", {"samples": []})["names"]

    def _post(self, path, body):
        request = urllib.request.Request(
            self.url + path,
            data=json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        for attempt in range(1, self.tries + 1):
            try:
                with self._opener.open(request, timeout=self.timeout_s) as response:
                    return json.load(response)
            except urllib.error.HTTPError as error:
                text = error.read().decode("utf-8", "replace")
                if error.code < 500 or attempt == self.tries:
                    raise RewardError(f"{self.url}{path} says {error.code}: {_message(text)}") from error
            except OSError as error:
                if attempt == self.tries:
                    raise RewardError(
                        f"{self.url} does not answer ({error}): start `rapport reward serve` or give its url"
                    ) from error
            time.sleep(PAUSE_S * attempt)
        raise RewardError(f"{self.url} was not asked: `tries` is {self.tries}")


def _message(text):
    try:
        return json.loads(text)["error"]["message"]
    except (ValueError, KeyError, TypeError):
        return text[:200]


def messages_of(prompt):
    """A conversation from text or from messages."""
    if isinstance(prompt, str):
        return [{"role": "user", "content": prompt}]
    return [{"role": turn["role"], "content": turn["content"] or ""} for turn in prompt]


def reply_of(completion):
    """The reply's text from text or from messages."""
    if isinstance(completion, str):
        return completion
    return completion[-1]["content"] or "" if completion else ""
