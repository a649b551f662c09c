"""What the engine counts, for people and for metrics."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Clock:
    """The times of one request, in seconds of a monotonic clock."""

    submitted: float
    first: float | None = None
    last: float | None = None
    tokens: int = 0

    def token(self, now: float) -> None:
        """A token was made."""
        self.first = now if self.first is None else self.first
        self.last = now
        self.tokens += 1

    @property
    def first_token_s(self) -> float | None:
        """From submission to the first token."""
        return None if self.first is None else self.first - self.submitted

    @property
    def tokens_per_s(self) -> float | None:
        """After the first token."""
        if self.first is None or self.last is None or self.last <= self.first:
            return None
        return (self.tokens - 1) / (self.last - self.first)


@dataclass
class Stats:
    """The engine since it began. Counts only grow; `*_now` are of this moment."""

    cache_bytes: int
    cache_pages: int
    page_tokens: int
    pages_used_now: int = 0
    pages_remembered_now: int = 0
    running_now: int = 0
    waiting_now: int = 0
    requests: int = 0
    finished: int = 0
    cancelled: int = 0
    steps: int = 0
    preemptions: int = 0
    prompt_tokens: int = 0
    prompt_tokens_reused: int = 0
    computed_tokens: int = 0
    generated_tokens: int = 0
    busy_s: float = 0.0
    first_token_s_sum: float = 0.0
    first_tokens: int = 0

    @property
    def tokens_per_s(self) -> float:
        """Generated tokens a second of work."""
        return self.generated_tokens / self.busy_s if self.busy_s else 0.0

    @property
    def first_token_s(self) -> float:
        """Mean time to the first token."""
        return self.first_token_s_sum / self.first_tokens if self.first_tokens else 0.0

    @property
    def cache_use(self) -> float:
        """The part of the cache that sequences use now, 0 … 1."""
        return self.pages_used_now / self.cache_pages

    @property
    def prefix_hit_rate(self) -> float:
        """The part of all prompt tokens that was found in the cache."""
        return self.prompt_tokens_reused / self.prompt_tokens if self.prompt_tokens else 0.0
