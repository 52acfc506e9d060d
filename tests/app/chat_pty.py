"""A chat on a pseudo terminal, driven as a person would.   chat_pty.py PROGRAM FOLDER"""
import json
import os
import pty
import select
import signal
import stat
import sys
import time

PROGRAM, FOLDER = sys.argv[1:]
SAVED = os.path.join(FOLDER, "saved.json")
HISTORY = os.path.join(FOLDER, "state", "hlwq-stream", "history")
PATIENCE = 120  # seconds: the sanitizers' builds are slow


class Chat:
    def __init__(self, *options, term="xterm", **environment):
        env = {k: v for k, v in os.environ.items() if not k.startswith("HLWQ_") and k not in ("NO_COLOR", "CLICOLOR_FORCE")}
        env.update(TERM=term, LC_ALL="C", XDG_CONFIG_HOME=FOLDER, XDG_STATE_HOME=os.path.join(FOLDER, "state"))
        env.update(environment)
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.execve(PROGRAM, [PROGRAM, "chat", "-m", "models/demo-q5.hlwq", "--temp", "0", *options], env)
        self.seen = b""   # everything
        self.read_to = 0  # what the last wait() matched

    def pump(self, seconds):
        if not select.select([self.fd], [], [], seconds)[0]:
            return False
        try:
            data = os.read(self.fd, 65536)
        except OSError:
            data = b""
        self.seen += data
        return bool(data)

    def wait(self, words, n=1):
        """Until `words` were shown `n` times since the last wait; what was shown before their end."""
        end, at = time.time() + PATIENCE, 0
        while True:
            new = self.seen[self.read_to:]
            if new.count(words) >= n:
                at = -1
                for _ in range(n):
                    at = new.index(words, at + 1)
                self.read_to += at + len(words)
                return new[:at]
            if time.time() > end:
                sys.exit(f"FAILED: waited for {words!r}, saw {new[-2000:]!r}")
            self.pump(0.2)

    def send(self, text):
        os.write(self.fd, text if isinstance(text, bytes) else text.encode())

    def prompt(self):
        self.wait(b"> ")

    def save(self):
        """The conversation, through /save."""
        if os.path.exists(SAVED):
            os.remove(SAVED)
        self.send(f"/save {SAVED}\r")
        self.wait(b"messages written")
        self.prompt()
        with open(SAVED, encoding="utf-8") as f:
            return [(m["role"], m["content"]) for m in json.load(f)["messages"]]

    def end(self, keys=b"\x04"):
        if keys:
            self.send(keys)
        deadline = time.time() + PATIENCE
        while time.time() < deadline:
            self.pump(0.05)
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                while self.pump(0):
                    pass
                os.close(self.fd)
                return os.waitstatus_to_exitcode(status)
        os.kill(self.pid, signal.SIGKILL)
        sys.exit(f"FAILED: it did not end; saw {self.seen[-2000:]!r}")


def check(good, what):
    if not good:
        sys.exit(f"FAILED: {what}")


def answers_can_be_stopped():
    chat = Chat("--think", "off", "-c", "8192")
    chat.prompt()
    chat.send("The old man\r")
    chat.wait(b"\n", 2)  # the line itself, then some of an answer that would take long
    time.sleep(0.3)
    chat.send(b"\x03")
    chat.wait(b"tok/s | context ")
    chat.prompt()
    talk = chat.save()
    check([r for r, _ in talk] == ["user", "assistant"], f"the stopped answer is not kept: {talk}")
    check(talk[1][1], "the stopped answer is empty")
    chat.send("/set n 4\r")
    chat.prompt()
    chat.send("And then\r")
    chat.wait(b"tok/s | context ")
    chat.prompt()
    check(len(chat.save()) == 4, "the chat does not go on")
    check(chat.end() == 0, "Ctrl-D: not exit 0")


def lines_are_edited():
    chat = Chat("--think", "off", "-n", "2")
    chat.prompt()
    chat.send("garbage")
    chat.wait(b"garbage")
    chat.send(b"\x03")
    chat.prompt()
    chat.send("h\u00e9llx\x7fo\r")
    chat.wait(b"tok/s")
    chat.prompt()
    chat.send(b"\x1b[200~/one\rtwo \xc3\xa9\x1b[201~")
    chat.wait("\u00e9".encode())
    chat.send("\r")
    chat.wait(b"tok/s")
    chat.prompt()
    chat.send('"""\r')
    chat.wait(b". ")
    chat.send('a\r')
    chat.wait(b". ")
    chat.send('b"""\r')
    chat.wait(b"tok/s")
    chat.prompt()
    talk = [text for role, text in chat.save() if role == "user"]
    check(talk == ["h\u00e9llo", "/one\ntwo \u00e9", "a\nb"], f"messages: {talk}")
    check(chat.end("/quit\r") == 0, "/quit: not exit 0")


def a_signal_ends_it_at_the_prompt():
    for _ in range(8):
        chat = Chat("--think", "off", "-n", "2")
        chat.prompt()
        os.kill(chat.pid, signal.SIGTERM)  # as early as can be: it must not be lost before the wait for a key
        check(chat.end(b"") == 143, "SIGTERM at the prompt: not exit 143")


def history_is_kept():
    mode = stat.S_IMODE(os.stat(HISTORY).st_mode)
    check(mode == 0o600, f"the history has mode {mode:o}")
    chat = Chat("--think", "off", "-n", "2")
    chat.prompt()
    chat.send(b"\x1b[A\x1b[A\x1b[A")  # /quit, /save, the last message
    chat.wait(b'a')
    chat.send("\r")
    chat.wait(b"tok/s")
    chat.prompt()
    talk = [text for role, text in chat.save() if role == "user"]
    check(talk == ["a\nb"], f"the history gives {talk}")
    check(chat.end() == 0, "Ctrl-D: not exit 0")
    blocked = os.path.join(FOLDER, "file")
    open(blocked, "w").close()
    chat = Chat("--think", "off", "-n", "2", XDG_STATE_HOME=blocked)
    chat.prompt()
    for _ in range(2):
        chat.send("hi\r")
        chat.wait(b"tok/s")
        chat.prompt()
    check(chat.seen.count(b"the history cannot be written") == 1, "not one warning about the history")
    check(chat.end() == 0, "no history: not exit 0")


def colour_is_where_it_is_wanted():
    chat = Chat("-n", "3")
    chat.prompt()
    chat.send("hi\r")
    chat.wait(b"tok/s")
    chat.prompt()
    check(b"\x1b[2m" in chat.seen and b"<think>" not in chat.seen, "thinking is not dimmed")
    chat.end()
    chat = Chat("-n", "3", NO_COLOR="1")
    chat.prompt()
    chat.send("hi\r")
    chat.wait(b"tok/s")
    chat.prompt()
    check(b"\x1b[2m" not in chat.seen and b"<think>" in chat.seen, "NO_COLOR: dimmed all the same")
    chat.end()
    chat = Chat("-n", "3", term="dumb")
    chat.prompt()
    chat.send("hi\n")
    chat.wait(b"tok/s")
    chat.prompt()
    chat.send("garb")
    chat.send(b"\x03")
    chat.prompt()
    check(len(chat.save()) == 2, "a dumb terminal: Ctrl-C at the prompt")
    check(chat.end() == 0, "a dumb terminal: not exit 0")
    check(b"\x1b" not in chat.seen, f"escapes on a dumb terminal: {chat.seen!r}")


for test in answers_can_be_stopped, lines_are_edited, a_signal_ends_it_at_the_prompt, history_is_kept, colour_is_where_it_is_wanted:
    test()
    print("ok:", test.__name__)
