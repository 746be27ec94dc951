"""OpenAI's own client against running coordinators. usage: client.py FACTS.json

FACTS.json says where they are and what they answer to those who do not use this client; cli/tests/openai.rs writes it.
chat    a chat model with random weights behind a key, two KV caches
text    the bundled model, which has no chat template
empty   no node, a key, and a rate of six requests a minute
"""
import json
import math
import sys
import time
import unittest
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import openai
from prometheus_client.openmetrics.parser import text_string_to_metric_families

FACTS = json.load(open(sys.argv[1]))
PATIENCE_S = 120


def client(server, key=None, **options):
    options = {"max_retries": 0, "timeout": PATIENCE_S, **options}
    return openai.OpenAI(base_url=FACTS[server] + "/v1", api_key=key or FACTS["key"], **options)


CHAT, TEXT = client("chat"), client("text")
MODEL, TEXT_MODEL = FACTS["chat_model"], FACTS["text_model"]
MESSAGES = [{"role": "system", "content": "Be brief"}, {"role": "user", "content": "Hello"}]


def chat(**options):
    options = {"model": MODEL, "messages": MESSAGES, "temperature": 0, "max_tokens": 8, **options}
    return CHAT.chat.completions.create(**options)


def text(**options):
    options = {"model": TEXT_MODEL, "prompt": FACTS["prompt"], "temperature": 0, "max_tokens": 24, **options}
    return TEXT.completions.create(**options)


def streamed(chunks):
    """Each choice's text and how it ended, from a stream of either kind."""
    texts, reasons = {}, {}
    for chunk in chunks:
        for choice in chunk.choices:
            part = choice.text if hasattr(choice, "text") else choice.delta.content
            texts[choice.index] = texts.get(choice.index, "") + (part or "")
            if choice.finish_reason:
                assert choice.index not in reasons, "a choice ends once"
                reasons[choice.index] = choice.finish_reason
    return texts, reasons


def metrics():
    request = urllib.request.Request(FACTS["chat"] + "/metrics", headers={"Authorization": f"Bearer {FACTS['key']}"})
    body = urllib.request.urlopen(request, timeout=PATIENCE_S).read().decode()
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(body)
        for sample in family.samples
    }


def wait_until(holds):
    """Polls: a client that goes away is not told when that was noticed."""
    end = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < end, "it never came to hold"
        time.sleep(0.02)


class Models(unittest.TestCase):
    def test_the_served_model_is_listed_and_found_and_no_other_is(self):
        models = CHAT.models.list().data
        self.assertEqual([model.id for model in models], [MODEL])
        self.assertEqual(CHAT.models.retrieve(MODEL), models[0])
        with self.assertRaises(openai.NotFoundError):
            CHAT.models.retrieve("gpt-4o")


class Chat(unittest.TestCase):
    def test_an_answer_is_what_the_template_and_the_model_give(self):
        answer = chat()
        self.assertEqual(answer.choices[0].message.content, FACTS["chat_answer"])
        self.assertEqual(answer.choices[0].message.role, "assistant")
        self.assertEqual(answer.choices[0].finish_reason, "length")
        usage = answer.usage
        self.assertEqual((usage.prompt_tokens, usage.completion_tokens), (FACTS["chat_prompt_tokens"], 8))
        self.assertEqual(usage.total_tokens, FACTS["chat_prompt_tokens"] + 8)
        parts = [{"role": m["role"], "content": [{"type": "text", "text": m["content"]}]} for m in MESSAGES]
        again = chat(messages=parts, max_tokens=openai.NOT_GIVEN, max_completion_tokens=8, user="me", metadata={"a": "b"})
        self.assertEqual(again.choices, answer.choices)
        self.assertEqual(again.system_fingerprint, answer.system_fingerprint)
        self.assertNotEqual(again.id, answer.id)

    def test_an_answer_without_a_limit_ends_with_the_context(self):
        answer = chat(max_tokens=openai.NOT_GIVEN, extra_body={"ignore_eos": True})
        self.assertEqual(answer.choices[0].finish_reason, "length")
        # The token at the place behind the last can be told, and not fed.
        self.assertEqual(answer.usage.total_tokens, FACTS["chat_context"] + 1)

    def test_a_stream_gives_the_same_text_and_then_what_it_took(self):
        chunks = list(chat(stream=True, stream_options={"include_usage": True}))
        self.assertEqual(streamed(chunks), ({0: FACTS["chat_answer"]}, {0: "length"}))
        self.assertEqual(len({chunk.id for chunk in chunks}), 1)
        self.assertEqual(chunks[0].choices[0].delta.role, "assistant")
        self.assertEqual([chunk.usage for chunk in chunks[:-1]], [None] * (len(chunks) - 1))
        self.assertEqual((chunks[-1].choices, chunks[-1].usage), ([], chat().usage))
        self.assertIsNone(list(chat(stream=True))[-1].usage)

    def test_the_client_s_own_stream_helper_puts_it_together(self):
        with CHAT.chat.completions.stream(model=MODEL, messages=MESSAGES, temperature=0, max_tokens=8) as stream:
            # It takes the length for an error, and has the answer in it.
            with self.assertRaises(openai.LengthFinishReasonError) as reached:
                stream.get_final_completion()
        self.assertEqual(reached.exception.completion.choices[0].message.content, FACTS["chat_answer"])

    def test_log_probabilities_are_those_of_the_model(self):
        choice = chat(logprobs=True, top_logprobs=5).choices[0]
        told = choice.logprobs.content
        self.assertEqual(len(told), 8)
        self.assertEqual(b"".join(bytes(token.bytes) for token in told).decode(errors="replace").strip(),
                         FACTS["chat_answer"].strip())
        for token in told:
            likeliest = [top.logprob for top in token.top_logprobs]
            self.assertEqual(likeliest, sorted(likeliest, reverse=True))
            self.assertEqual(len(likeliest), 5)
            self.assertLess(sum(map(math.exp, likeliest)), 1.0001)
            # Greedy: the likeliest is chosen.
            self.assertEqual((token.token, token.logprob), (token.top_logprobs[0].token, likeliest[0]))
        # Whatever the sampler does: from all logits as from the likeliest five.
        drawn = chat(logprobs=True, top_logprobs=5, temperature=2, seed=3, frequency_penalty=1).choices[0]
        for full, top in zip(drawn.logprobs.content[0].top_logprobs, told[0].top_logprobs):
            self.assertEqual(full.bytes, top.bytes)
            self.assertAlmostEqual(full.logprob, top.logprob, places=4)
        parts = [chunk.choices[0].logprobs for chunk in chat(logprobs=True, top_logprobs=5, stream=True)]
        self.assertEqual([token for part in parts if part for token in part.content], told)
        self.assertEqual(chat(logprobs=True).choices[0].logprobs.content[0].top_logprobs, [])
        self.assertIsNone(chat().choices[0].logprobs)

    def test_many_at_once_get_what_each_gets_alone(self):
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _: chat().choices[0].message.content, range(24)))
            streams = list(pool.map(lambda _: streamed(chat(stream=True))[0][0], range(24)))
        self.assertEqual(set(answers + streams), {FACTS["chat_answer"]})


class Text(unittest.TestCase):
    def test_a_text_goes_on_as_transformers_says(self):
        answer = text(max_tokens=64)
        self.assertEqual(FACTS["prompt"] + answer.choices[0].text, FACTS["golden"])
        self.assertEqual(streamed(text(max_tokens=64, stream=True))[0][0], answer.choices[0].text)
        self.assertEqual(text(max_tokens=64, prompt=FACTS["ids"]).choices[0].text, answer.choices[0].text)
        self.assertEqual(text(max_tokens=openai.NOT_GIVEN).usage.completion_tokens, 16)

    def test_a_stop_string_ends_a_text_and_is_no_part_of_it(self):
        whole = text().choices[0].text
        for stop in (whole[9:13], ["never seen\x00", whole[9:13]]):
            for stopped in (text(stop=stop).choices[0], None):
                if stopped is None:
                    texts, reasons = streamed(text(stop=stop, stream=True))
                    got = (texts[0], reasons[0])
                else:
                    got = (stopped.text, stopped.finish_reason)
                self.assertEqual(got, (whole[:whole.index(whole[9:13])], "stop"))

    def test_a_seed_fixes_a_draw_and_each_choice_draws_its_own(self):
        draw = {"temperature": 1, "seed": -7}
        one, again = text(**draw).choices, text(**draw).choices
        self.assertEqual(one, again)
        several = text(n=4, **draw)
        texts = [choice.text for choice in several.choices]
        self.assertEqual([choice.index for choice in several.choices], [0, 1, 2, 3])
        self.assertEqual(texts[0], one[0].text)
        self.assertEqual(len(set(texts)), 4)
        self.assertEqual(several.usage.completion_tokens, 4 * 24)
        self.assertEqual(several.usage.prompt_tokens, len(FACTS["ids"]))
        self.assertEqual(streamed(text(n=4, stream=True, **draw))[0], dict(enumerate(texts)))
        self.assertNotEqual(text(temperature=1).choices[0].text, text(temperature=1).choices[0].text)

    def test_several_prompts_are_answered_in_their_order(self):
        prompts = [FACTS["prompt"], "fn main() {"]
        together = text(prompt=prompts, n=2).choices
        alone = [text(prompt=prompt).choices[0].text for prompt in prompts for _ in range(2)]
        self.assertEqual([choice.text for choice in together], alone)

    def test_penalties_and_biases_change_a_text(self):
        plain = text().choices[0].text
        for change in ({"frequency_penalty": 2}, {"presence_penalty": 2}, {"extra_body": {"repetition_penalty": 1.5}}):
            self.assertNotEqual(text(max_tokens=64, **change).choices[0].text[:len(plain)], plain, change)
        forced = text(logit_bias={str(FACTS["ids"][0]): 100}, logprobs=0).choices[0]
        self.assertEqual(set(forced.logprobs.tokens), {forced.logprobs.tokens[0]})
        self.assertEqual(text(temperature=2, extra_body={"top_k": 1}).choices[0].text, plain)

    def test_log_probabilities_in_the_older_shape(self):
        choice = text(logprobs=3).choices[0]
        told = choice.logprobs
        self.assertEqual("".join(told.tokens), choice.text)
        self.assertEqual(told.text_offset, [len("".join(told.tokens[:n])) for n in range(24)])
        for token, logprob, top in zip(told.tokens, told.token_logprobs, told.top_logprobs):
            self.assertEqual((max(top, key=top.get), len(top)), (token, 3))
            self.assertEqual(top[token], logprob)
        parts = [chunk.choices[0].logprobs for chunk in text(logprobs=3, stream=True)]
        self.assertEqual([offset for part in parts if part for offset in part.text_offset], told.text_offset)


class Refused(unittest.TestCase):
    def bad(self, ask, param, *words, error=openai.BadRequestError, **options):
        with self.assertRaises(error) as refused:
            ask(**options)
        body = refused.exception.body
        self.assertEqual(body["param"], param, body)
        for word in words:
            self.assertIn(word, body["message"])
        return body

    def test_what_is_wrong_is_named(self):
        self.bad(chat, "temperature", "2.5", "0 to 2", temperature=2.5)
        self.bad(chat, "top_p", "1.5", top_p=1.5)
        self.bad(chat, "n", "0", n=0)
        self.bad(chat, "max_tokens", "at least one", max_tokens=0)
        self.bad(chat, "top_logprobs", "logprobs", top_logprobs=2)
        self.bad(chat, "stream_options", "stream", stream_options={"include_usage": True})
        self.bad(chat, "messages[0].content[0].type", "image_url", messages=[
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://example.org"}}]}])
        self.bad(chat, "messages", "no messages", messages=[])
        self.bad(text, "logit_bias", logit_bias={"me": 1})
        self.bad(text, "prompt", prompt=[])
        self.bad(text, "n", "64", prompt=["a"] * 33, n=2)

    def test_what_would_change_the_answer_and_is_not_done_is_named(self):
        tool = {"type": "function", "function": {"name": "f", "parameters": {}}}
        for param, value in [("tools", [tool]), ("response_format", {"type": "json_object"}), ("reasoning_effort", "low"),
                             ("web_search_options", {})]:
            body = self.bad(chat, param, "not supported", **{param: value})
            self.assertEqual(body["code"], "unsupported_parameter")
        self.bad(text, "echo", echo=True)
        self.bad(text, "suffix", suffix="the end")
        self.bad(text, "best_of", best_of=3)
        self.bad(text, "mood", extra_body={"mood": "good"})

    def test_a_prompt_that_does_not_fit_says_so_to_programs(self):
        body = self.bad(chat, "messages", str(FACTS["chat_context"]), messages=[{"role": "user", "content": "word " * 300}])
        self.assertEqual(body["code"], "context_length_exceeded")

    def test_another_model_is_not_found(self):
        body = self.bad(chat, "model", MODEL, error=openai.NotFoundError, model="gpt-4o")
        self.assertEqual(body["code"], "model_not_found")

    def test_a_model_without_a_template_does_not_chat_and_says_what_it_does(self):
        def ask():
            TEXT.chat.completions.create(model=TEXT_MODEL, messages=MESSAGES)
        self.assertEqual(self.bad(ask, "messages", "chat template", "/v1/completions")["code"], "no_chat_template")

    def test_a_body_beyond_every_context_is_not_read(self):
        with self.assertRaises(openai.APIStatusError) as refused:
            chat(messages=[{"role": "user", "content": "x" * (8 << 20)}])
        self.assertEqual(refused.exception.status_code, 413)

    def test_a_wrong_key_is_no_key(self):
        with self.assertRaises(openai.AuthenticationError):
            client("chat", key="sk-somebody-else").models.list()

    def test_what_is_not_ready_or_asked_too_often_says_when_to_come_back(self):
        empty = client("empty")
        with self.assertRaises(openai.InternalServerError) as refused:
            empty.completions.create(model=TEXT_MODEL, prompt="a")
        self.assertEqual((refused.exception.status_code, refused.exception.body["code"]), (503, "not_ready"))
        self.assertGreater(int(refused.exception.response.headers["retry-after"]), 0)
        with self.assertRaises(openai.RateLimitError) as refused:
            empty.completions.create(model=TEXT_MODEL, prompt="a")
        self.assertGreater(int(refused.exception.response.headers["retry-after"]), 0)


class PrefixCache(unittest.TestCase):
    def test_a_second_turn_says_how_much_of_it_was_there(self):
        first = text(prompt="Once more about prefixes: ", max_tokens=16)
        self.assertEqual(first.usage.prompt_tokens_details.cached_tokens, 0)
        prompt = "Once more about prefixes: " + first.choices[0].text + " and so on"
        again = text(prompt=prompt)
        cached = again.usage.prompt_tokens_details.cached_tokens
        self.assertGreater(cached, 8)
        self.assertLess(cached, again.usage.prompt_tokens)
        parts = list(text(prompt=prompt, stream=True, stream_options={"include_usage": True}))
        self.assertEqual(parts[-1].usage.prompt_tokens_details.cached_tokens, again.usage.prompt_tokens - 1)
        self.assertEqual(streamed(parts)[0][0], again.choices[0].text)


class Cancelled(unittest.TestCase):
    """Asks for far more than both KV caches give before the client is gone."""

    MANY = {"n": 64, "max_tokens": 200, "extra_body": {"ignore_eos": True}}

    def all_is_free(self, before):
        wait_until(lambda: metrics()["syn1_requests_running",] == metrics()["syn1_requests_waiting",] == 0)
        ended = ("syn1_requests_total", ("end", "cancelled"))
        self.assertGreater(metrics()[ended], before.get(ended, 0))
        # A node whose caches were still taken would refuse these.
        self.assertEqual({chat().choices[0].message.content for _ in range(4)}, {FACTS["chat_answer"]})

    def test_a_stream_that_nobody_reads_any_more(self):
        before = metrics()
        with chat(stream=True, **self.MANY) as stream:
            for chunk in stream:
                if chunk.choices[0].delta.content:
                    break
        self.all_is_free(before)

    def test_an_answer_that_nobody_waits_for_any_more(self):
        before = metrics()
        with self.assertRaises(openai.APITimeoutError):
            client("chat", timeout=0.2).chat.completions.create(model=MODEL, messages=MESSAGES, **self.MANY)
        self.all_is_free(before)


class Metrics(unittest.TestCase):
    def test_figures_are_openmetrics_and_move(self):
        before = metrics()
        chat()
        after = metrics()
        moved = {key: after[key] - before.get(key, 0) for key in after}
        self.assertEqual(moved["syn1_tokens_generated_total",], 8)
        self.assertEqual(moved["syn1_tokens_prompt_total",], FACTS["chat_prompt_tokens"])
        self.assertEqual(moved["syn1_requests_total", ("end", "length")], 1)
        self.assertEqual(moved["syn1_time_to_first_token_seconds_count",], 1)
        self.assertEqual(moved["syn1_time_per_token_seconds_count",], 7)
        for node in FACTS["nodes"]:
            # A frame for the prompt, or several, and one for each token but the first.
            self.assertGreaterEqual(moved["syn1_hop_seconds_count", ("node", node)], 8)
            for direction in ("sent", "received"):
                self.assertGreater(moved["syn1_link_bytes_total", ("direction", direction), ("node", node)], 0)
            self.assertGreater(after["syn1_node_layer_seconds", ("node", node)], 0)
        self.assertEqual((after["syn1_ready",], after["syn1_kv_slots",]), (1, 2))
        self.assertEqual(after["syn1_model", ("model", MODEL), ("weights", "f16")], 1)
        self.assertEqual([key for key in after if key[0] == "syn1_build_info"], [("syn1_build_info", ("version", FACTS["version"]))])


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1], verbosity=2)
