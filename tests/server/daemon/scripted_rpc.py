"""Takes the place of NodeRPC: answers from a table, without any HTTP."""

from types import SimpleNamespace

from electrumx.server.daemon.responses import DaemonError, ReplyTooLargeError


def error(code, message):
    return DaemonError({"code": code, "message": message})


METHOD_NOT_FOUND = error(-32601, "Method not found")


class ScriptedRPC:
    """Nodes at one URL or several.

    answers: method -> result, exception, or function of the parameters; others are not found
    rest:    blocks may be read over REST, too
    """

    def __init__(self, *, urls=("http://node-1/",), rest=False, **answers):
        self.answers = answers
        self.urls = list(urls)
        self.http = SimpleNamespace(has_rest=rest)
        self.asked = []
        self.asked_at = []
        self.request_sizes = []  # calls in each request
        self.logged = []
        self.started = False
        self.left_out = {}

    def _answer(self, method, params):
        self.asked.append((method, tuple(params)))
        answer = self.answers.get(method, METHOD_NOT_FOUND)
        if callable(answer):
            answer = answer(*params)
        if isinstance(answer, Exception):
            raise answer
        return answer

    @staticmethod
    def _check_length(reading, results):
        """Raise ReplyTooLargeError if the texts of an answer are longer than its reading allows."""
        length = sum(len(result) for result in results if isinstance(result, str))
        if reading is not None and length > reading.max_bytes:
            message = f"the answer is larger than {reading.max_bytes:,d} bytes"
            raise ReplyTooLargeError([{"code": -32603, "message": message}])

    async def send_single(self, method, params=(), reading=None):
        self.request_sizes.append(1)
        result = self._answer(method, params)
        self._check_length(reading, [result])
        return result

    async def send_each(self, method, params_iterable, reading=None):
        params_iterable = list(params_iterable)
        self.request_sizes.append(len(params_iterable))
        results = []
        for params in params_iterable:
            try:
                results.append(self._answer(method, params))
            except DaemonError as e:
                results.append(e)
        self._check_length(reading, results)
        return results

    async def send_vector(self, method, params_iterable, replace_errs=False, reading=None):
        params_iterable = list(params_iterable)
        if not params_iterable:
            return []
        results = await self.send_each(method, params_iterable, reading)
        errors = [result.args[0] for result in results if isinstance(result, DaemonError)]
        if errors and not replace_errs:
            raise DaemonError(errors)
        return [None if isinstance(result, DaemonError) else result for result in results]

    async def call_once(self, url, method, params=()):
        self.asked_at.append(url)
        return self._answer(method, params)

    def current_url(self):
        return self.urls[0]

    def logged_url(self, url=None):
        return (url or self.current_url()).removeprefix("http://")

    def leave_out(self, url, reason):
        self.left_out[url] = reason
        self.urls.remove(url)
        return bool(self.urls)

    def note_started(self):
        self.started = True

    def log_once(self, text):
        if text not in self.logged:
            self.logged.append(text)
