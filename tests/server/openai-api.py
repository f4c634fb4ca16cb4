"""The `openai` package against sharpi serve: every endpoint that it knows, streams, log-probabilities, stop strings, errors."""
import base64
import math
import struct
import time

import openai

from common import Server, check, equal, finish

CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Tell me about rivers."}]
GREEDY = dict(temperature=0, max_tokens=24)


def model_of(client):
    models = client.models.list().data
    equal(len(models), 1, "one model")
    equal(client.models.retrieve(models[0].id).id, models[0].id, "models.retrieve")
    return models[0].id


def chats(client, model):
    whole = client.chat.completions.create(model=model, messages=CHAT, **GREEDY)
    text = whole.choices[0].message.content
    check(text, "an answer")
    equal(whole.choices[0].finish_reason, "length", "finish_reason")
    equal(whole.usage.completion_tokens, 24, "completion_tokens")
    equal(whole.usage.total_tokens, whole.usage.prompt_tokens + 24, "total_tokens")
    again = client.chat.completions.create(model=model, messages=CHAT, **GREEDY)
    equal(again.choices[0].message.content, text, "the same again, from the cache")
    check(again.usage.prompt_tokens_details.cached_tokens > whole.usage.prompt_tokens // 2, "cached_tokens")
    streamed, finish_reason, usage = "", None, None
    for chunk in client.chat.completions.create(model=model, messages=CHAT, stream=True,
                                                stream_options={"include_usage": True}, **GREEDY):
        equal(chunk.object, "chat.completion.chunk", "object")
        if chunk.usage:
            usage = chunk.usage
        for choice in chunk.choices:
            streamed += choice.delta.content or ""
            finish_reason = choice.finish_reason or finish_reason
    equal(streamed, text, "streamed text")
    equal(finish_reason, "length", "streamed finish_reason")
    check(usage and usage.completion_tokens == 24, "usage of a stream")
    parts = [{"role": m["role"], "content": [{"type": "text", "text": m["content"]}]} for m in CHAT]
    equal(client.chat.completions.create(model=model, messages=parts, **GREEDY).choices[0].message.content, text,
          "content in parts")
    return text


def stops(client, model, text):
    """Every stop string that occurs ends the text right before it, in one piece and streamed."""
    for begin, end in ((3, 4), (5, 9), (2, 8), (len(text) - 3, len(text))):
        stop = text[begin:end]
        if not stop.strip() or "\ufffd" in stop:
            continue
        wanted = text[:text.index(stop)]
        whole = client.chat.completions.create(model=model, messages=CHAT, stop=[stop, "nowhere to be found"], **GREEDY)
        equal(whole.choices[0].message.content, wanted, f"stop {stop!r}")
        equal(whole.choices[0].finish_reason, "stop", f"finish_reason with stop {stop!r}")
        streamed = "".join(c.choices[0].delta.content or ""
                           for c in client.chat.completions.create(model=model, messages=CHAT, stop=stop, stream=True,
                                                                   **GREEDY) if c.choices)
        equal(streamed, wanted, f"stop {stop!r}, streamed")
    held = client.chat.completions.create(model=model, messages=CHAT, stop=text + "and more", **GREEDY)
    equal(held.choices[0].message.content, text, "what was held back for a stop string that did not come")


def logprobs(client, model, text):
    whole = client.chat.completions.create(model=model, messages=CHAT, logprobs=True, top_logprobs=3, **GREEDY)
    content = whole.choices[0].logprobs.content
    equal(len(content), 24, "logprobs of every token")
    equal(b"".join(bytes(t.bytes or []) for t in content).decode("utf-8", "replace").strip(), text.strip(),
          "the tokens' bytes are the text")
    for t in content:
        equal(len(t.top_logprobs), 3, "top_logprobs")
        check(t.logprob <= 0 and abs(t.logprob - t.top_logprobs[0].logprob) < 1e-4, "greedy takes the most likely")
        check(sum(math.exp(x.logprob) for x in t.top_logprobs) <= 1.0001, "probabilities")
    streamed = []
    for chunk in client.chat.completions.create(model=model, messages=CHAT, logprobs=True, top_logprobs=3, stream=True,
                                                **GREEDY):
        for choice in chunk.choices:
            streamed += choice.logprobs.content if choice.logprobs else []
    equal([t.token for t in streamed], [t.token for t in content], "logprobs of a stream")
    done = client.completions.create(model=model, prompt="One two three", logprobs=2, **GREEDY).choices[0]
    equal(len(done.logprobs.tokens), 24, "logprobs of a completion")
    equal(done.logprobs.text_offset[0], 0, "text_offset")
    check(all(len(top) <= 2 and top for top in done.logprobs.top_logprobs), "top_logprobs of a completion")


def completions(client, model):
    prompt = "The rivers of the world"
    one = client.completions.create(model=model, prompt=prompt, **GREEDY).choices[0]
    two = client.completions.create(model=model, prompt=[prompt, "Another one"], **GREEDY).choices
    equal(len(two), 2, "two prompts")
    equal(two[0].text, one.text, "the first of two prompts")
    echo = client.completions.create(model=model, prompt=prompt, echo=True, **GREEDY).choices[0]
    equal(echo.text, prompt + one.text, "echo")
    streamed = "".join(c.choices[0].text for c in client.completions.create(model=model, prompt=prompt, stream=True,
                                                                            **GREEDY) if c.choices)
    equal(streamed, one.text, "streamed completion")
    many = client.completions.create(model=model, prompt=prompt, n=3, seed=5, temperature=1.5, max_tokens=12,
                                     extra_body={"top_k": 0, "min_p": 0.0}).choices
    equal(sorted(c.index for c in many), [0, 1, 2], "n = 3")
    check(len({c.text for c in many}) > 1, "choices differ")
    again = client.completions.create(model=model, prompt=prompt, n=3, seed=5, temperature=1.5, max_tokens=12,
                                      extra_body={"top_k": 0, "min_p": 0.0}).choices
    equal([c.text for c in again], [c.text for c in many], "the same seed says the same")


def biased(client, model, server):
    _, ids = server.post("/tokenize", {"content": "a"})
    token = ids["tokens"][-1]
    text = client.completions.create(model=model, prompt="x", logit_bias={str(token): 100}, max_tokens=5,
                                     temperature=0).choices[0].text
    _, piece = server.post("/detokenize", {"tokens": [token]})
    equal(text, piece["content"] * 5, "a bias of 100 forces a token")
    free = client.completions.create(model=model, prompt="x", logprobs=0, max_tokens=1, temperature=0)
    status, first = server.post("/v1/completions", {"prompt": "x", "max_tokens": 1, "temperature": 0})
    _, chosen = server.post("/tokenize", {"content": first["choices"][0]["text"]})
    banned = client.completions.create(model=model, prompt="x", logit_bias={str(t): -100 for t in chosen["tokens"]},
                                       logprobs=0, max_tokens=1, temperature=0)
    check(banned.choices[0].logprobs.tokens != free.choices[0].logprobs.tokens, "a bias of -100 forbids a token")


def refused(client, name, error, **request):
    try:
        client.chat.completions.create(**{"model": name, "messages": CHAT, **GREEDY, **request})
        check(False, f"no error for {request}")
    except error as e:
        check(e.body and e.body.get("message"), f"a message for {request}")
        return e


def errors(client, model):
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    bad = openai.BadRequestError
    equal(refused(client, model, bad, tools=[tool]).param, "tools", "param of tools")
    refused(client, model, bad, response_format={"type": "json_object"})
    refused(client, model, bad, response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": {}}})
    refused(client, model, bad, extra_body={"grammar": "root ::= x"})
    refused(client, model, bad, messages=[{"role": "user", "content": [
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]}])
    refused(client, model, bad, messages=[])
    refused(client, model, bad, messages=[{"role": "wizard", "content": "x"}])
    refused(client, model, bad, temperature=-1)
    refused(client, model, bad, extra_body={"top_p": "much"})
    refused(client, model, bad, stop=[""])
    refused(client, model, bad, top_logprobs=2)
    refused(client, model, openai.NotFoundError, model="gpt-17")
    full = refused(client, model, bad, messages=[{"role": "user", "content": "far too long " * 3000}])
    equal(full.code, "context_length_exceeded", "code of a prompt that does not fit")
    client.chat.completions.create(model=model, messages=CHAT, tool_choice="none", **GREEDY)
    client.chat.completions.create(model=model, messages=CHAT, response_format={"type": "text"}, **GREEDY)


def cancelled(client, model, server):
    before = server.wait_idle()
    stream = client.chat.completions.create(model=model, messages=CHAT, stream=True, max_tokens=900, temperature=0,
                                            extra_body={"ignore_eos": True})
    for _, chunk in zip(range(4), stream):
        pass
    stream.close()
    after = server.wait_idle()
    key = 'sharpi_requests_finished_total{reason="cancelled"}'
    equal(after[key] - before[key], 1, "a closed stream cancels its request")
    made = after["sharpi_output_tokens_total"] - before["sharpi_output_tokens_total"]
    check(made < 800, f"{made} tokens were made for nobody")


def embeddings(client, model):
    texts = ["rivers and lakes", "something else", "rivers and lakes"]
    got = client.embeddings.create(model=model, input=texts, encoding_format="float")
    vectors = [e.embedding for e in got.data]
    equal(len(vectors), 3, "three vectors")
    check(abs(sum(x * x for x in vectors[0]) - 1) < 1e-3, "unit length")
    check(max(abs(a - b) for a, b in zip(vectors[0], vectors[2])) < 1e-4, "the same text, the same vector")
    check(max(abs(a - b) for a, b in zip(vectors[0], vectors[1])) > 1e-3, "other text, other vector")
    packed = client.embeddings.create(model=model, input=texts[0], encoding_format="base64").data[0].embedding
    if isinstance(packed, str):
        raw = base64.b64decode(packed)
        packed = struct.unpack(f"<{len(raw) // 4}f", raw)
    check(max(abs(a - b) for a, b in zip(vectors[0], packed)) < 1e-4, "base64 says the same")


def main():
    with Server("--parallel", "4") as server:
        client = openai.OpenAI(base_url=server.base, api_key="none", max_retries=0, timeout=120)
        model = model_of(client)
        text = chats(client, model)
        stops(client, model, text)
        logprobs(client, model, text)
        completions(client, model)
        biased(client, model, server)
        errors(client, model)
        cancelled(client, model, server)
        equal(server.metrics()['sharpi_pages{class="0",window="0",use="active"}']
              if 'sharpi_pages{class="0",window="0",use="active"}' in server.metrics() else 0, 0, "no page is held")
        equal(server.stop(), 0, "exit status after SIGTERM")
    with Server("--embeddings") as server:
        client = openai.OpenAI(base_url=server.base, api_key="none", max_retries=0, timeout=120)
        embeddings(client, model)
    finish()


main()
