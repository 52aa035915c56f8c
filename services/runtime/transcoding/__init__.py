"""HTTP/JSON for any service that has a descriptor: routes, OpenAPI, one boundary for errors."""
