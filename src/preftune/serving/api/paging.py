"""Lists a page at a time: `after` is the last id of the page before."""

from typing import Annotated, Any, Generic, Literal, TypeVar

from fastapi import Query
from pydantic import BaseModel

from preftune.store.pages import Page

T = TypeVar("T", bound=BaseModel)

After = Annotated[
    str | None, Query(max_length=300, description="Id of the row that the page follows.")
]
Limit = Annotated[int, Query(ge=1, le=100, description="Most rows of the page.")]
LongLimit = Annotated[int, Query(ge=1, le=10_000, description="Most rows of the page.")]


class Listed(BaseModel, Generic[T]):
    """A page of a list; there is more while `has_more` is true."""

    object: Literal["list"] = "list"
    data: list[T]
    has_more: bool


class ListedWithEnds(Listed[T], Generic[T]):
    """A page that names its first and last row."""

    first_id: str | None
    last_id: str | None


def listed(data: list[T], page: Page[Any]) -> Listed[T]:
    """Return a page of the store as the API shows it, its rows made ready in `data`."""
    return Listed(data=data, has_more=page.has_more)


def listed_with_ends(data: list[T], page: Page[Any], ids: list[str]) -> ListedWithEnds[T]:
    """Return the same, with the ids of its ends."""
    first, last = (ids[0], ids[-1]) if ids else (None, None)
    return ListedWithEnds(data=data, has_more=page.has_more, first_id=first, last_id=last)
