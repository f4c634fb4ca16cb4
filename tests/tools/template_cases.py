"""The matrix of conversations that every chat template is rendered with."""


def user(content, **more):
    return {"role": "user", "content": content, **more}


def assistant(content, **more):
    return {"role": "assistant", "content": content, **more}


def system(content):
    return {"role": "system", "content": content}


def call(name, arguments, id="call_1"):
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


WEATHER = {"location": "Zürich, \"Old Town\"", "unit": "celsius", "days": 3, "exact": True, "limit": None}

CONVERSATIONS = [
    [user("Hello, who are you?")],
    [system("You are a <helpful> assistant & friend's helper."), user("Hi  ")],
    [system("Sys"), user("one"), assistant("two"), user("three"), assistant("four "), user("five")],
    [user("  spaces  \n"), assistant("\n\nanswer\n"), user("Ünïcödé 日本語 🙂 <|im_end|> \t'\"\\ </s>")],
    [user("What?"), assistant("<think>\nlet me think\n</think>\n\nThe answer."), user("More")],
    [user("What?"), assistant("The answer.", reasoning_content="long thoughts\n", thinking="other thoughts",
                              reasoning="r"), user("More"),
     assistant("Done", reasoning_content="again")],
    [system("Sys"), user("Weather in Zürich?"),
     assistant("", tool_calls=[call("get_weather", WEATHER, "abcdefghi")]),
     {"role": "tool", "content": "{\"temp\": 21.5}", "tool_call_id": "abcdefghi", "name": "get_weather"},
     assistant("It is 21.5."), user("Thanks")],
    [user("Weather?"),
     assistant(None, tool_calls=[call("get_weather", "{\"location\": \"Paris\"}", "aaaaaaaaa"),
                                 call("search", {"query": "x", "filters": {"a": [1, 2.5, -3e-7, 1e20]}},
                                      "bbbbbbbbb")]),
     {"role": "tool", "content": "sunny", "tool_call_id": "aaaaaaaaa", "name": "get_weather"},
     {"role": "tool", "content": "", "tool_call_id": "bbbbbbbbb", "name": "search"}],
    [user("Weather?"),
     assistant("Let me look.", tool_calls=[{"name": "get_weather", "arguments": WEATHER}],
               reasoning_content="I need a tool"),
     {"role": "tool", "content": {"temp": 3, "list": ["a", None, False]}, "name": "get_weather"},
     assistant("Cold."), user("ok")],
    [user([{"type": "text", "text": "First part."}, {"type": "text", "text": " Second <b>."}]),
     assistant([{"type": "text", "text": "A part."}]), user("end")],
    [user([{"type": "image"}, {"type": "text", "text": "What is in the image?"},
           {"type": "image_url", "image_url": {"url": "http://x"}}])],
    [system(""), user(""), assistant(""), user("x")],
    [user(None)],
    [user("a"), user("b")],
    [assistant("starts"), user("then")],
    [{"role": "developer", "content": "Dev"}, user("q")],
    [system([{"type": "text", "text": "Listed system."}]), user("q"), {"role": "unknown", "content": "?"}],
    [],
]

SEARCH = {
    "type": "function",
    "function": {
        "name": "search",
        "description": "Search the web.\nReturns <html> & 'more'.",
        "parameters": {
            "type": "object",
            "properties": {
                "query": {"type": "string", "description": "what to search", "minLength": 1},
                "filters": {
                    "type": "object",
                    "properties": {
                        "a": {"type": "array", "items": {"type": "number"}},
                        "mode": {"type": ["string", "null"], "enum": ["fast", "ünder", None], "default": "fast"},
                    },
                    "required": ["a"],
                    "additionalProperties": False,
                },
                "any": {"anyOf": [{"type": "integer"}, {"type": "string"}], "description": "either"},
            },
            "required": ["query"],
        },
        "return": {"type": "string", "description": "text"},
    },
}

GET_WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {
                "location": {"type": "string", "description": "City"},
                "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
                "days": {"type": "integer", "default": 1, "maximum": 1e3},
            },
            "required": ["location", "unit"],
        },
    },
}

DESCRIBED = {"type": "function", "function": {"name": "get_weather", "description": "Weather now", "parameters": {
    "type": "object", "properties": {"location": {"type": "string", "description": "City"},
                                     "n": {"type": "integer", "description": "Days"}}, "required": ["location"]}}}

NO_PARAMETERS = {"type": "function", "function": {"name": "ping", "description": "Ping", "parameters": {
    "type": "object", "properties": {}}}}

TOOLSETS = [None, [DESCRIBED], [SEARCH, GET_WEATHER, NO_PARAMETERS]]

TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}

VARIANTS = [
    {**TOKENS, "add_generation_prompt": False},
    {**TOKENS, "add_generation_prompt": True},
    {**TOKENS, "add_generation_prompt": True, "enable_thinking": True, "thinking": True, "reasoning_effort": "high",
     "functions": "[functions]", "datetime": "2025-01-01", "tool": "x"},
    {**TOKENS, "add_generation_prompt": True, "enable_thinking": False, "thinking": False, "clear_thinking": False,
     "tools_in_user_message": False, "date_string": "01 Jan 2025", "builtin_tools": ["code_interpreter"]},
    {"add_generation_prompt": False, "keep_past_thinking": True, "preserve_thinking": True, "custom_tools": None},
]
