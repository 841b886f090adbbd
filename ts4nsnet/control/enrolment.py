# SPDX-License-Identifier: BSD-3-Clause
"""Getting in, and staying in: when the next registration is due, and what is told of it.

    credential ── obtain ──► auth key ─┐
    Login.attempt ─────────────────────┴► request ─► take(response) ─► events; the next attempt, or none

`register.Login` knows what to ask; this adds the time (back-off, Retry-After), the conversation that turns a credential
into an auth key, and what the user hears of it: a login URL once, a refusal once for each text.
"""

from collections import deque
from collections.abc import Mapping
from math import inf

from ts4nsnet.control import events
from ts4nsnet.control.backoff import Backoff, Random
from ts4nsnet.control.config import Config, Identity, State
from ts4nsnet.control.credentials import Conversation, obtain
from ts4nsnet.control.errors import CredentialError
from ts4nsnet.control.http import HttpRequest, HttpResponse
from ts4nsnet.control.lock import LockKey
from ts4nsnet.control.register import (
    LOGOUT_EXPIRY,
    Authorized,
    Failed,
    Login,
    LoginPending,
    Outcome,
    Postponed,
    Refused,
    RegisterRequest,
    parse_answer,
)
from ts4nsnet.keys import ZERO_KEY


class Enrolment:
    """See the module. `told` is where events go."""

    def __init__(
        self, config: Config, identity: Identity, version: int, told: deque[events.Event], random: Random, now: float
    ) -> None:
        self.login = Login(
            identity.node,
            registered=identity.registered,
            credential=config.credential,
            lock=LockKey(identity.lock_seed) if identity.lock_seed else None,
            random=random,
        )
        self.last_error = ""
        self._config = config
        self._version = version
        self._told = told
        self._random = random
        self._backoff = Backoff(random, now)
        self._conversation: Conversation | None = None
        self._asked = identity.registered
        self._shown_url = ""
        self._refusal = ""

    @property
    def may_be_known(self) -> bool:
        """Whether the server may know our key, so that there is something to log out."""
        return self._asked

    @property
    def login_url(self) -> str:
        """What waits for a visit."""
        return self.login.attempt.followup if self.login.attempt else ""

    @property
    def state(self) -> State | None:
        """What is to be said of it, None while we are in."""
        if self.login.attempt is None:
            return None
        if self.login_url:
            return State.NEEDS_LOGIN
        return State.REFUSED if self._refusal else State.REGISTERING

    # --- the auth key -----------------------------------------------------------------------------------------

    def begin(self, now: float) -> HttpRequest | None:
        """The first request of a conversation, if one is needed and due."""
        if not self._wants_conversation() or now < self._backoff.retry_at or self.login.credential is None:
            return None
        self._conversation = obtain(self.login.credential)
        return self._converse(None, "", now)

    def conversed(self, response: HttpResponse | str, now: float) -> HttpRequest | None:
        """The next request, after the response to the last one, or the reason why there is none."""
        if isinstance(response, str):
            return self._converse(None, response, now)
        return self._converse(response, "", now)

    def _converse(self, response: HttpResponse | None, failure: str, now: float) -> HttpRequest | None:
        if self._conversation is None:
            return None
        try:
            return self._conversation.send(response)
        except StopIteration as end:
            self.login.auth_key = end.value
        except CredentialError as error:
            text = f"{error} ({failure})" if failure else str(error)
            self._refused(Refused(text, events.Reason.NO_KEY), now)
        self._conversation = None
        return None

    def _wants_conversation(self) -> bool:
        return self.login.lacks_auth_key and self._conversation is None

    # --- registrations ----------------------------------------------------------------------------------------

    def due_at(self) -> float:
        """When the next registration is due; infinite if none is, or if it waits for an auth key."""
        return inf if self.login.attempt is None or self.login.lacks_auth_key else self._backoff.retry_at

    def begin_at(self) -> float:
        """When `begin` has something to do."""
        return self._backoff.retry_at if self._wants_conversation() else inf

    def request(self, hostinfo: Mapping[str, object], now: float) -> RegisterRequest:
        """The registration that is due."""
        self._asked = True
        return self.login.request(
            self._version, hostinfo, ephemeral=self._config.ephemeral, tailnet=self._config.tailnet, now=now
        )

    def logout_request(self, hostinfo: Mapping[str, object]) -> RegisterRequest:
        """The end: an expiry in the past. If the server has only been asked for a key so far, for that one."""
        attempt = self.login.attempt
        key = attempt.key if attempt is not None and not self.login.registered else self.login.key
        return RegisterRequest(self._version, key.public, ZERO_KEY, hostinfo, expiry=LOGOUT_EXPIRY)

    def take(self, response: HttpResponse, *, https_only: bool, now: float, wall: float) -> Outcome:
        """Read the server's answer, tell what is to be told, and plan what follows."""
        before, attempt = self.login.key, self.login.attempt
        answer = parse_answer(response, https_only=https_only, random=self._random, wall=wall)
        outcome = self.login.take(answer, now)
        match outcome:
            case Authorized(login_name, display_name, machine_authorized):
                self._backoff.succeeded(now)
                self._refusal = self.last_error = ""
                key = self.login.key
                changed = key.public != before.public
                self._told.append(events.Registered(key, changed, login_name, display_name, machine_authorized))
            case LoginPending(url):
                if attempt is not None and attempt.followup:
                    self._backoff.failed(now)  # one URL after the other: show them, but slowly
                else:
                    self._backoff.succeeded(now)
                if url != self._shown_url:
                    self._shown_url = url
                    self._told.append(events.LoginUrlReceived(url))
            case Refused():
                self._refused(outcome, now)
            case Postponed(text, retry_time):
                self._backoff.postponed(retry_time, now)
                self.last_error = f"register: the server is too busy: {text}"
                self._told.append(events.RateLimited(text, retry_time))
            case Failed(text):
                self.failed(text, now)
            case _:
                pass  # the next request follows at once
        return outcome

    def failed(self, reason: str, now: float) -> None:
        """No answer: again, later."""
        self.last_error = reason
        self._backoff.failed(now)

    def _refused(self, refusal: Refused, now: float) -> None:
        self._backoff.failed(now)
        self.last_error = refusal.text
        if refusal.text != self._refusal:
            self._refusal = refusal.text
            self._told.append(events.RegistrationRefused(refusal.text, refusal.reason, refusal.advice))
