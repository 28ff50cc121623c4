"""Takes the place of NodeRPC: answers from a table, without any HTTP."""

from electrumx.server.daemon.responses import DaemonError


def error(code, message):
    return DaemonError({"code": code, "message": message})


METHOD_NOT_FOUND = error(-32601, "Method not found")


class ScriptedRPC:
    """Nodes at one URL or several.

    answers: method -> result, exception, or function of the parameters; others are not found
    """

    def __init__(self, *, urls=("http://node-1/",), **answers):
        self.answers = answers
        self.urls = list(urls)
        self.asked = []
        self.asked_at = []
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

    async def send_single(self, method, params=(), _reading=None):
        return self._answer(method, params)

    async def send_vector(self, method, params_iterable, _replace_errs=False, _reading=None):
        return [self._answer(method, params) for params in params_iterable]

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
