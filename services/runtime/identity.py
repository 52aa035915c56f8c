"""Who calls: the tenant, or at the hub the operator, of a bearer token.

Tokens are compared by digest, in constant time, and never logged.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Mapping
from typing import Final

from services.runtime.errors import Unauthenticated

DEFAULT_TENANT: Final = "default"
Identify = Callable[[str | None], str]
"""Turns the value of the `authorization` metadata (or None) into a tenant, or raises Unauthenticated."""


def everybody(_: str | None) -> str:
    """Takes every caller for tenant "default"; for servers on loopback without tenants."""
    return DEFAULT_TENANT


def nobody_of(digests: Mapping[str, str]) -> Identify:
    """Gives an Identify that takes every caller for "default" but the holders of certain tokens.

    For servers on loopback that ask for no credential, and at which those tokens still give no rights.

    Args:
        digests: the SHA-256 (hexadecimal) of each token, by its holder.
    """
    known = by_token(digests)

    def identify(authorization: str | None) -> str:
        try:
            known(authorization)
        except Unauthenticated:
            return DEFAULT_TENANT
        raise Unauthenticated("authorization", "a tenant's token is for predictions; send an operator's, or none")

    return identify


def by_token(digests: Mapping[str, str]) -> Identify:
    """Gives an Identify for tenants or operators with the SHA-256 (hexadecimal) of each one's token."""
    table = {digest: tenant for tenant, digest in digests.items()}

    def identify(authorization: str | None) -> str:
        scheme, _, token = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise Unauthenticated("authorization", "send the metadata `authorization: Bearer <token>`")
        digest = hashlib.sha256(token.encode()).hexdigest()
        tenant = table.get(digest)
        # The look-up already went by a one-way digest; the comparison keeps the time independent of its prefix.
        if tenant is None or not hmac.compare_digest(digest, digests[tenant]):
            raise Unauthenticated("authorization", "the token is not known")
        return tenant

    return identify
