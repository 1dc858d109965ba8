# SPDX-License-Identifier: Apache-2.0
"""What TRL and verl rely on, against a server at RAPPORT_REWARD_URL. Run: python3 -m unittest discover clients/python"""

import importlib.util
import inspect
import os
import pathlib
import sys
import unittest

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from rapport_rewards import RewardClient, RewardError  # noqa: E402
from rapport_rewards.trl import reward_funcs, total_reward  # noqa: E402

URL = os.environ.get("RAPPORT_REWARD_URL", "http://127.0.0.1:8460")
PROMPT = [{"role": "user", "content": "My tomatoes died in the frost last night."}]
GOOD = "All of them in one night? That hurts, after a whole spring of watering. Did the frost take the pots too?"
GUSHING = "WOW!!! That's AMAZING!!! You're the BEST gardener EVER!!! 🎉🎉🎉"


class Counting(RewardClient):
    n_requests = 0

    def _post(self, path, body):
        self.n_requests += 1
        return super()._post(path, body)


class Trl(unittest.TestCase):
    def columns(self):
        return {
            "prompts": [PROMPT, PROMPT],
            "completions": [[{"role": "assistant", "content": text}] for text in (GOOD, GUSHING)],
            "feeling": ["sadness", "sadness"],
            "need": ["vent", "vent"],
            # What TRL also hands over.
            "completion_ids": [[1], [2]],
            "trainer_state": None,
            "log_extra": None,
            "log_metric": None,
        }

    def test_every_component_is_a_function_and_a_batch_is_one_request(self):
        client = Counting(URL)
        functions = reward_funcs(client=client)
        before = client.n_requests
        rewards = {f.__name__: f(**self.columns()) for f in functions}
        self.assertEqual(client.n_requests - before, 1)
        self.assertEqual(set(rewards), set(client.names()))
        for values in rewards.values():
            self.assertEqual(len(values), 2)
            self.assertTrue(all(value is None or 0 <= value <= 1 for value in values))
        self.assertGreater(rewards["tone_fit"][0], rewards["tone_fit"][1])
        self.assertIsNone(rewards["form"][0])

    def test_the_whole_and_text_instead_of_messages(self):
        columns = self.columns()
        good, gushing = total_reward(URL)(**columns)
        self.assertGreater(good, gushing)
        columns.update(prompts=[PROMPT[0]["content"]] * 2, completions=[GOOD, GUSHING])
        self.assertEqual(total_reward(URL)(**columns), [good, gushing])

    def test_labels_may_be_missing(self):
        rewards = total_reward(URL)(prompts=["Hi", "Hi"], completions=["Hello.", ""], feeling=[None, None])
        self.assertGreater(rewards[0], rewards[1])
        self.assertEqual(rewards[1], 0)

    def test_faults_are_named(self):
        with self.assertRaisesRegex(ValueError, "no component `charm`.*tone_fit"):
            reward_funcs(URL, components=["charm"])
        with self.assertRaisesRegex(RewardError, "400.*`narrator` is no role"):
            RewardClient(URL).score([{"messages": [{"role": "narrator", "content": ""}], "reply": ""}])
        with self.assertRaisesRegex(RewardError, "start `rapport reward serve`"):
            RewardClient("http://127.0.0.1:9", tries=1).names()


class Verl(unittest.TestCase):
    def setUp(self):
        # As verl does: by path, outside any package.
        spec = importlib.util.spec_from_file_location("custom_module", ROOT / "rapport_rewards" / "verl.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        self.compute_score = module.compute_score

    def test_all_values_are_floats_and_keys_stay_the_same(self):
        def scored(reply):
            return self.compute_score(
                data_source="rapport",
                solution_str=reply,
                ground_truth=None,
                extra_info={"prompt": PROMPT, "labels": {"feeling": "sadness", "need": "vent"}, "num_turns": 2},
                url=URL,
            )

        good, gushing = scored(GOOD), scored(GUSHING)
        self.assertEqual(list(good), list(gushing))
        self.assertTrue(all(isinstance(value, float) for value in [*good.values(), *gushing.values()]))
        self.assertGreater(good["score"], gushing["score"])
        self.assertFalse(inspect.iscoroutinefunction(self.compute_score))

    def test_a_ground_truth_is_the_right_answer(self):
        def scored(reply):
            info = {"prompt": "What's the capital of Ukraine?"}
            return self.compute_score("facts", reply, "Kyiv", info, url=URL)["honest"]

        self.assertEqual((scored("It's Kyiv."), scored("It's Odessa.")), (1.0, 0.0))


if __name__ == "__main__":
    unittest.main()
