"""The channels of ``watch``: mail, a webhook, or a command."""

from __future__ import annotations

import ipaddress
import re
import shlex
import shutil
import smtplib
import ssl
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from email.message import EmailMessage
from typing import Final

import msgspec
from msgspec import Struct

from neuromirror.lab.watch import News, channel_id, news_subject, news_text
from neuromirror.model import ConfigurationError, NeuromirrorError, environment_without_secrets
from neuromirror.net import post_json, webhook_host

_SECONDS: Final = 60
_COMMAND_SECONDS: Final = 600
_SMTP_PORT: Final = 25
_HOST: Final = re.compile(r"[A-Za-z0-9.-]+|\[?[0-9A-Fa-f:.]+\]?")
_SMTPS_PORT: Final = 465


class DeliveryError(NeuromirrorError):
    """A channel did not accept the news."""


@dataclass(frozen=True, slots=True)
class WebhookChannel:
    """Sends news to a URL as JSON: ``text``, as chat programs expect it, and ``news``.

    ``allow_private`` is whether the URL may be on this machine or network.
    """

    url: str = field(repr=False)
    allow_private: bool = False

    def __post_init__(self) -> None:
        webhook_host(self.url)

    @property
    def name(self) -> str:
        """The name for messages."""
        return f"webhook {webhook_host(self.url)}"

    @property
    def id(self) -> str:
        """A stable id."""
        return channel_id("webhook", self.url)

    def send(self, news: Sequence[News]) -> None:
        """Send news."""
        content = {"text": news_text(news), "news": msgspec.to_builtins(list(news))}
        post_json(self.url, content, allow_private=self.allow_private)


class CommandChannel:
    """A program that gets news on its standard input, one JSON object per line; without a shell.

    Raises
    ------
    ConfigurationError
        The command is empty, or its program is not found.
    """

    def __init__(self, command: str) -> None:
        try:
            self._arguments = shlex.split(command)
        except ValueError as error:
            raise ConfigurationError(f"--command: {error} in {command!r}") from error
        if not self._arguments or not self._arguments[0].strip():
            raise ConfigurationError("--command is empty; specify a program")
        if shutil.which(self._arguments[0]) is None:
            raise ConfigurationError(
                f"--command: the program {self._arguments[0]!r} is not found; write its path"
            )
        self.name = f"command {self._arguments[0]}"
        self.id = channel_id("command", command)

    def send(self, news: Sequence[News]) -> None:
        """Run the program."""
        lines = b"".join(msgspec.json.encode(one) + b"\n" for one in news)
        try:
            done = subprocess.run(
                self._arguments,
                input=lines,
                env=environment_without_secrets(),
                timeout=_COMMAND_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise DeliveryError(f"{self.name} did not exit within {_COMMAND_SECONDS} s") from None
        if done.returncode:
            raise DeliveryError(f"{self.name} exited with code {done.returncode}")


@dataclass(frozen=True, slots=True)
class MailServer:
    """An SMTP server, with the user name and password to log in; empty for no login.

    STARTTLS is used where the server offers it, and TLS from the start on port 465.
    """

    host: str = "localhost"
    port: int = _SMTP_PORT
    user: str = ""
    password: str = field(default="", repr=False)

    @classmethod
    def parse(cls, text: str, user: str = "", password: str = "") -> MailServer:
        """Parse ``HOST[:PORT]``.

        Raises
        ------
        ConfigurationError
            The text is not a host, or only one of user and password is set.
        """
        host, colon, port = text.rpartition(":") if text.count(":") == 1 else (text, "", "")
        if _HOST.fullmatch(host) is None or (colon and not port.isdigit()):
            raise ConfigurationError(f"--smtp {text!r} is not valid; write HOST[:PORT]")
        if bool(user) != bool(password):
            raise ConfigurationError(
                "set both NEUROMIRROR_SMTP_USER and NEUROMIRROR_SMTP_PASSWORD, or neither"
            )
        return cls(host.strip("[]"), int(port) if colon else _SMTP_PORT, user, password)

    @property
    def is_loopback(self) -> bool:
        """Whether the server is on this machine."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    def send(self, message: EmailMessage) -> None:
        """Send a message.

        Raises
        ------
        DeliveryError
            The server is not reachable, refuses it, or does not offer TLS for the password.
        """
        context = ssl.create_default_context()
        try:
            if self.port == _SMTPS_PORT:
                server: smtplib.SMTP = smtplib.SMTP_SSL(
                    self.host, self.port, timeout=_SECONDS, context=context
                )
            else:
                server = smtplib.SMTP(self.host, self.port, timeout=_SECONDS)
            with server:
                self._send(server, message, context)
        except smtplib.SMTPAuthenticationError:
            # the reply of the server may repeat the password
            raise DeliveryError(f"{self.host}: user or password refused") from None
        except UnicodeEncodeError:
            # the error has the password: smtplib sends it as ASCII only
            raise DeliveryError(
                f"{self.host}:{self.port}: user, password and addresses must be ASCII"
            ) from None
        except (OSError, smtplib.SMTPException) as error:
            raise DeliveryError(f"{self.host}:{self.port}: {error}") from error

    def _send(self, server: smtplib.SMTP, message: EmailMessage, context: ssl.SSLContext) -> None:
        server.ehlo()
        is_encrypted = self.port == _SMTPS_PORT
        if not is_encrypted and server.has_extn("starttls"):
            server.starttls(context=context)
            server.ehlo()
            is_encrypted = True
        if self.user:
            if not is_encrypted and not self.is_loopback:
                raise DeliveryError(
                    f"{self.host}:{self.port} does not offer STARTTLS, so the password is not "
                    f"sent; use a port with TLS, such as 465 or 587"
                )
            server.login(self.user, self.password)
        server.send_message(message)


class MailChannel(Struct, frozen=True):
    """Sends news to a mail address, through an SMTP server.

    Attributes
    ----------
    address
        The address of the recipient.
    server
        The SMTP server.
    sender
        The address of the sender.
    """

    address: str
    server: MailServer
    sender: str = ""

    def __post_init__(self) -> None:
        for one in (self.address, self.sender or self.address):
            user, at, host = one.rpartition("@")
            if not (user and at and host) or any(letter.isspace() for letter in one):
                raise ConfigurationError(f"{one!r} is not a mail address; write NAME@HOST")

    @property
    def name(self) -> str:
        """The name for messages."""
        return f"mail to {self.address}"

    @property
    def id(self) -> str:
        """A stable id."""
        return channel_id("mail", self.address)

    def send(self, news: Sequence[News]) -> None:
        """Send one mail."""
        message = EmailMessage()
        message["Subject"] = news_subject(news)
        message["From"] = self.sender or self.address
        message["To"] = self.address
        message.set_content(news_text(news))
        self.server.send(message)
