"""What of the runtime is a rule: data in, expected out."""
import enum
import json
import threading
import unittest
from unittest import mock

from dormouse.runtime import log
from dormouse.runtime.event import BadEvent, event_of
from dormouse.runtime.http1 import Request
from dormouse.runtime.result import InvalidResult, answer_of
from dormouse.runtime.spec import BadLoad, Spec, from_env, from_load

SPEC = Spec("n", "f", "r", "index.handler", 128, 1000, 1, 1000)


def event(method: str, target: str, headers: list = (), body: bytes = b"") -> dict:
    return event_of("id", Request(method, target, list(headers), body, False, True, True, "10.1.2.3"), SPEC)


class Rules(unittest.TestCase):
    def test_targets_become_path_and_query(self):
        for target, path, queries in (
            ("/", "/", {}), ("/a?", "/a", {}), ("/a?b=c?d", "/a", {"b": "c?d"}), ("/a?b=%zz&%C3%A9", "/a", {"b": "%zz", "é": ""}),
            ("http://h", "/", {}), ("http://h/p?x=1", "/p", {"x": "1"}), ("/http://h/x", "/http://h/x", {}), ("*", "*", {}),
        ):
            made = event("GET", target)
            self.assertEqual((made["path"], made["queryStringParameters"]), (path, queries), target)

    def test_the_peer_is_the_source_where_nobody_forwarded(self):
        self.assertEqual(event("GET", "/")["requestContext"]["sourceIp"], "10.1.2.3")
        made = event("GET", "/", [("x-forwarded-for", " 1.1.1.1 , 2.2.2.2")])
        self.assertEqual(made["requestContext"]["sourceIp"], "1.1.1.1")

    def test_an_event_of_the_platform_comes_as_it_should_or_not_at_all(self):
        for method, kind, body in (("PUT", "schedule", b""), ("POST", "", b""), ("POST", "x", b"\xff")):
            with self.assertRaises(BadEvent):
                event(method, "/", [("dormouse-event", kind)], body)
        made = event("POST", "/", [("dormouse-event", "x"), ("dormouse-event-time", "then")])
        self.assertEqual((made["type"], made["time"], made["payload"]), ("x", "then", None))

    def test_what_json_has_no_word_for_is_no_result(self):
        for bad in (float("inf"), {1, 2}, object(), "\ud800", {("a",): 1}):
            with self.assertRaises(InvalidResult, msg=repr(bad)):
                answer_of(bad)
        self.assertEqual(answer_of((1, "a")).body, b'[1,"a"]')
        self.assertEqual(answer_of({1: None}).body, b'{"1":null}')

    def test_a_line_of_the_log_is_json_whatever_its_fields_are(self):
        loop: dict = {}
        loop["self"] = loop
        for fields in ({"a": float("nan")}, {"a": loop}, {"a": {1, 2}}, {"a": b"x"}, {"time": "mine"}):
            line = json.loads(log._written({"time": "now", "message": "m"}, fields), parse_constant=self.fail)
            self.assertEqual((line["time"], line["message"]), ("now", "m"), fields)

    def test_a_logger_says_what_it_is_given(self):
        lines = []
        with mock.patch.object(log, "emit", lambda *said: lines.append(said)):
            logger = log.Logger()
            logger.info("100%")
            logger.warn("%d of %s", 1, "two", x=3)
            logger.error("%d", "no number")
        self.assertEqual(lines, [("info", "100%", {}), ("warn", "1 of two", {"x": 3}), ("error", "%d ('no number',)", {})])

    def test_an_object_that_logs_while_it_goes_keeps_nobody_waiting(self):
        class Says:
            def __del__(self):
                log.emit("info", "gone")

        written, held = [], [Says()]

        def write(_, data):
            # The collector may come by wherever something is allocated.
            held.clear()
            written.append(bytes(data[:40]))
            return len(written[-1])

        with mock.patch.object(log.os, "write", write):
            thread = threading.Thread(target=log.emit, args=("info", "said"), daemon=True)
            thread.start()
            thread.join(5)
        self.assertFalse(thread.is_alive(), "the log waits for itself")
        lines = [json.loads(line) for line in b"".join(written).splitlines()]
        self.assertEqual([line["message"] for line in lines], ["said", "gone"], "one line after the other")

    def test_an_error_without_words_is_logged(self):
        class Mute(Exception):
            def __str__(self):
                raise ValueError("no words")

        lines = []
        with mock.patch.object(log, "emit", lambda *said: lines.append(said)):
            log.failure("HandlerError", Mute())
        self.assertEqual([(level, message) for level, message, _ in lines], [("error", "Mute: (str() of it failed)")])

    def test_threads_beside_each_other_print_whole_lines(self):
        lines, stream = [], log.Stream("info")
        with mock.patch.object(log, "emit", lambda _, message: lines.append(message)):
            stream.write("mine, ")
            other = threading.Thread(target=stream.write, args=("another's\n",))
            other.start()
            other.join()
            stream.write("whole\n")
        self.assertEqual(lines, ["another's", "mine, whole"])

    def test_a_status_is_the_number_that_it_is(self):
        class S(int, enum.Enum):
            OK = 200

        self.assertEqual(f"{answer_of({'statusCode': S.OK}).status}", "200")

    def test_a_load_is_text_and_not_too_deep(self):
        load = {"pod": "p", "function": {"uid": "u", "namespace": "n", "name": "f"}, "revision": "r", "handler": "a.b",
                "files": {}, "memoryMiB": 128, "timeoutMs": 5, "concurrency": 2}
        for more in ({"files": {"\ud800": ""}}, {"env": {"A": "\udc80"}}, {"pod": "\ud800"}, {"revision": "\udfff"}):
            with self.assertRaises(BadLoad, msg=more):
                from_load(json.dumps({**load, **more}).encode())
        with self.assertRaisesRegex(BadLoad, "the body is not JSON"):
            from_load(b"[" * 100_000)

    def test_truth_is_no_status(self):
        with self.assertRaises(InvalidResult):
            answer_of({"statusCode": True})

    def test_a_load_and_the_environment_give_the_same(self):
        load = {"pod": "p", "function": {"uid": "u", "namespace": "n", "name": "f"}, "revision": "r", "handler": "a/b.c",
                "files": {}, "memoryMiB": 128, "timeoutMs": 5, "concurrency": 2}
        loaded = from_load(json.dumps(load).encode())
        booted = from_env({"DORMOUSE_NAMESPACE": "n", "K_SERVICE": "f", "K_REVISION": "r", "DORMOUSE_HANDLER": "a/b.c",
                           "DORMOUSE_MEMORY_MIB": "128", "DORMOUSE_TIMEOUT_MS": "5", "DORMOUSE_CONCURRENCY": "2"})
        loaded.pod = ""
        self.assertEqual(loaded, booted)
        with self.assertRaisesRegex(BadLoad, "DORMOUSE_TIMEOUT_MS: timeoutMs must be"):
            from_env({"DORMOUSE_HANDLER": "a.b", "DORMOUSE_TIMEOUT_MS": "1s"})
