"""LangChain's ChatOpenAI."""

import asyncio

from checks import API_KEY, BASE_URL, MODEL, run
from langchain_openai import AzureChatOpenAI, ChatOpenAI

chat = ChatOpenAI(base_url=BASE_URL, api_key=API_KEY, model=MODEL, temperature=0.5)


def invoke_answers():
    assert chat.invoke("hello").content


def a_limit_of_minus_one_is_none():
    assert ChatOpenAI(base_url=BASE_URL, api_key=API_KEY, model=MODEL, max_tokens=-1).invoke("hello").content


def stream_comes_in_pieces():
    assert "".join(piece.content for piece in chat.stream("hello"))


def batch_answers_in_order():
    assert len(chat.batch(["one", "two", "three"])) == 3


def async_answers():
    assert asyncio.run(chat.ainvoke("hello")).content


def azure_answers():
    azure = AzureChatOpenAI(
        azure_endpoint=BASE_URL.removesuffix("/v1"),
        api_key=API_KEY,
        api_version="2024-10-21",
        azure_deployment=MODEL,
    )
    assert azure.invoke("hello").content


def responses_api_is_refused_with_the_switch():
    try:
        ChatOpenAI(base_url=BASE_URL, api_key=API_KEY, model=MODEL, use_responses_api=True).invoke("hello")
    except Exception as error:
        assert "use_responses_api=False" in str(error), error
    else:
        raise AssertionError("answered")


run(
    invoke_answers,
    a_limit_of_minus_one_is_none,
    stream_comes_in_pieces,
    batch_answers_in_order,
    async_answers,
    azure_answers,
    responses_api_is_refused_with_the_switch,
)
