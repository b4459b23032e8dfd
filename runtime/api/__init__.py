"""HTTP: parse what came, call the store, answer. One file a resource, one table of routes.

`application.py` puts the routes together, `routes.py` says what a route is, `request.py` parses,
`respond.py` and `problems.py` answer, `middleware.py` stands around every request, and `openapi.py`
writes down what the routes declare.
"""
