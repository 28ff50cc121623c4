"""From a listening socket to whole messages: admission, TLS, WebSocket, framing."""
