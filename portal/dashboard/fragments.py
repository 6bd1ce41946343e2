"""A fragment that a page asks for every few seconds → its bytes, or 304 where the reader has them already."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from functools import wraps
from typing import Any

from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.utils.cache import get_conditional_response, patch_cache_control

View = Callable[..., HttpResponse]

# Masked anew in every rendering; each of them stays valid for as long as the session.
_CSRF = re.compile(rb'(name="csrfmiddlewaretoken" value=")[^"]*')


def unchanged_is_304(view: View) -> Callable[..., HttpResponseBase]:
    """Decorate a view, so that a reader who has its bytes already gets 304. That saves the transfer and the swap; the
    rendering is what tells whether it changed."""

    @wraps(view)
    def answered(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        response = view(request, *args, **kwargs)
        if response.status_code != 200:
            return response
        etag = '"' + hashlib.sha256(_CSRF.sub(rb"\1", response.content)).hexdigest()[:32] + '"'
        patch_cache_control(response, private=True, no_cache=True)
        response.headers["ETag"] = etag
        return get_conditional_response(request, etag=etag, response=response) or response

    return answered
