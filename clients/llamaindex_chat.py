"""LlamaIndex's OpenAILike."""

from checks import API_KEY, BASE_URL, MODEL, run
from llama_index.core.llms import ChatMessage
from llama_index.llms.openai_like import OpenAILike

llm = OpenAILike(model=MODEL, api_base=BASE_URL, api_key=API_KEY, is_chat_model=True, max_retries=0)
SAID = [ChatMessage(role="user", content="hello")]


def chat_answers():
    assert llm.chat(SAID).message.content


def complete_answers():
    assert llm.complete("hello").text


def stream_comes_in_pieces():
    assert "".join(piece.delta or "" for piece in llm.stream_chat(SAID))


def completions_are_refused_with_the_switch():
    plain = OpenAILike(model=MODEL, api_base=BASE_URL, api_key=API_KEY, is_chat_model=False, max_retries=0)
    try:
        plain.complete("hello")
    except Exception as error:
        assert "is_chat_model=True" in str(error), error
    else:
        raise AssertionError("answered")


run(chat_answers, complete_answers, stream_comes_in_pieces, completions_are_refused_with_the_switch)
