"""HTTP: parse the request, call the store, respond. One file for each resource, one table of routes.

`application.py` puts the routes together, `routes.py` defines a route, `request.py` and `body.py` parse,
`responses.py` and `problems.py` make replies, `middleware.py` wraps every request, and `openapi.py` describes
the routes.
"""
