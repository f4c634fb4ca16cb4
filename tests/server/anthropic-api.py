"""The `anthropic` package against sharpi serve: messages, streams, stop sequences, token counts, errors."""
import anthropic

from common import Server, check, equal, finish

TALK = [{"role": "user", "content": "Tell me about rivers."}]
GREEDY = dict(max_tokens=24, system="Be brief.", extra_body={"temperature": 0})  # newer versions know no temperature


def messages(client, model):
    whole = client.messages.create(model=model, messages=TALK, **GREEDY)
    text = whole.content[0].text
    check(text, "an answer")
    equal(whole.stop_reason, "max_tokens", "stop_reason")
    equal(whole.usage.output_tokens, 24, "output_tokens")
    again = client.messages.create(model=model, messages=TALK, **GREEDY)
    equal(again.content[0].text, text, "the same again")
    check(again.usage.cache_read_input_tokens > 0, "cache_read_input_tokens")
    equal(again.usage.cache_read_input_tokens + again.usage.input_tokens,
          whole.usage.cache_read_input_tokens + whole.usage.input_tokens, "input and cache together")
    blocks = [{"role": "user", "content": [{"type": "text", "text": TALK[0]["content"]}]}]
    equal(client.messages.create(model=model, messages=blocks, **GREEDY).content[0].text, text, "content in blocks")
    kinds = []
    with client.messages.stream(model=model, messages=TALK, **GREEDY) as stream:
        for event in stream:
            kinds.append(event.type)
        final = stream.get_final_message()
    equal(final.content[0].text, text, "streamed text")
    equal(final.stop_reason, "max_tokens", "streamed stop_reason")
    equal(final.usage.output_tokens, 24, "streamed output_tokens")
    for kind in ("message_start", "content_block_start", "content_block_delta", "content_block_stop", "message_delta",
                 "message_stop"):
        check(kind in kinds, f"event {kind}")
    equal((kinds[0], kinds[-1]), ("message_start", "message_stop"), "first and last event")
    return text


def stops(client, model, text):
    for begin, end in ((3, 4), (5, 9), (2, 8)):
        stop = text[begin:end]
        if not stop.strip() or "\ufffd" in stop:
            continue
        wanted = text[:text.index(stop)]
        whole = client.messages.create(model=model, messages=TALK, stop_sequences=["nowhere", stop], **GREEDY)
        equal(whole.content[0].text if whole.content else "", wanted, f"stop {stop!r}")
        equal((whole.stop_reason, whole.stop_sequence), ("stop_sequence", stop), "why it stopped")
        with client.messages.stream(model=model, messages=TALK, stop_sequences=[stop], **GREEDY) as stream:
            equal("".join(stream.text_stream), wanted, f"stop {stop!r}, streamed")


def continued(client, model):
    """A last message of the assistant is the beginning of the answer."""
    counted = client.messages.count_tokens(model=model, messages=TALK)
    begun = TALK + [{"role": "assistant", "content": "Rivers are"}]
    longer = client.messages.count_tokens(model=model, messages=begun)
    check(longer.input_tokens > counted.input_tokens > 5, "count_tokens")
    answer = client.messages.create(model=model, messages=begun, max_tokens=4, extra_body={"temperature": 0})
    equal(answer.usage.input_tokens + answer.usage.cache_read_input_tokens, longer.input_tokens, "count_tokens counts right")


def refused(client, name, error, kind, **request):
    try:
        client.messages.create(**{"model": name, "messages": TALK, **GREEDY, **request})
        check(False, f"no error for {request}")
    except error as e:
        equal(e.body["type"], "error", "shape of an error")
        equal(e.body["error"]["type"], kind, f"kind of error for {request}")
        check(e.body["error"]["message"], "a message")


def errors(client, model):
    bad = anthropic.BadRequestError
    refused(client, model, bad, "invalid_request_error", tools=[{"name": "f", "input_schema": {"type": "object"}}])
    refused(client, model, bad, "invalid_request_error", messages=[])
    refused(client, model, bad, "invalid_request_error", messages=[{"role": "user", "content": [
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}]}])
    refused(client, model, bad, "invalid_request_error", extra_body={"temperature": -3})
    refused(client, model, bad, "invalid_request_error", messages=[{"role": "user", "content": "far too long " * 3000}])
    refused(client, model, anthropic.NotFoundError, "not_found_error", model="some-other-model")


def keys(model):
    with Server(env={"SHARPI_API_KEY": "first-key second-key"}) as server:
        for key, allowed in (("second-key", True), ("first-key", True), ("first-ke", False), ("first-key2", False)):
            client = anthropic.Anthropic(base_url=server.url, api_key=key, max_retries=0)
            try:
                client.messages.count_tokens(model=model, messages=TALK)
                check(allowed, f"key {key} was let in")
            except anthropic.AuthenticationError as e:
                check(not allowed, f"key {key} was not let in")
                equal(e.body["error"]["type"], "authentication_error", "kind of error")


def main():
    with Server() as server:
        client = anthropic.Anthropic(base_url=server.url, api_key="none", max_retries=0, timeout=120)
        model = client.models.list().data[0].id
        text = messages(client, model)
        stops(client, model, text)
        continued(client, model)
        errors(client, model)
    with Server("--alias", "claude-local *") as server:
        client = anthropic.Anthropic(base_url=server.url, api_key="none", max_retries=0, timeout=120)
        equal([m.id for m in client.models.list().data], [model, "claude-local"], "aliases are listed")
        client.messages.create(model="anything", messages=TALK, **GREEDY)
    keys(model)
    finish()


main()
