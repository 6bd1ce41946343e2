"""Who may open what: the declared answer of every address, for every kind of caller. An address that has no line here
fails `tests/api/test_authorisation.py`: whoever adds one says who may use it.

A column is the status that the caller gets; "login" is the way to the log-in page. The user owns the request, the
batch and the token that the addresses name; the manager manages its project; the outsider is in another one, and so
are operator and administrator. The pilot shows its own key.
"""

from __future__ import annotations

CALLERS = ("anonymous", "outsider", "user", "manager", "operator", "administrator", "pilot")

# Django's addresses, without the admin's.
SITE = """
                                                  anonymous outsider  user manager operator administrator pilot
GET    api/v1/requests                              401       200     200    200     200        200        401
POST   api/v1/requests                              401       404     202    202     404        403        401
GET    api/v1/requests/<uuid:id>                    401       404     200    200     200        200        401
DELETE api/v1/requests/<uuid:id>                    401       404     200    200     200        200        401
GET    api/v1/models                                401       200     200    200     200        200        401
GET    api/v1/models/<path:name>                    401       404     200    200     404        404        401
POST   api/v1/models/<path:name>/wake               401       404     202    202     404        404        401
GET    api/v1/fleet                                 401       403     403    403     200        200        401
GET    api/v1/commands                              401       403     403    403     200        200        401
POST   api/v1/commands                              401       403     403    403     202        202        401
GET    api/v1/decisions                             401       403     403    403     200        200        401
GET    api/v1/schema                                401       200     200    200     200        200        401
GET    api/v1/                                      404       404     404    404     404        404        404
GET    favicon.ico                                  302       302     302    302     302        302        302
GET    /                                            login     200     200    200     200        200        login
GET    fragments/home                               login     200     200    200     200        200        login
POST   models/<path:name>/wake                      login     404     302    302     404        404        login
GET    models/register/                             login     403     403    200     200        200        login
POST   models/register/                             login     403     403    302     422        302        login
GET    models/register/<int:id>/                    login     403     403    200     200        200        login
POST   models/register/<int:id>/                    login     403     403    302     200        302        login
GET    models/register/<int:id>/fragments/candidate login     403     403    200     200        200        login
POST   models/register/<int:id>/again               login     403     403    302     404        302        login
POST   models/register/<int:id>/test                login     403     403    302     404        302        login
POST   models/register/<int:id>/approve             login     403     403    403     302        302        login
GET    playground/                                  login     200     200    200     200        200        login
POST   playground/token                             login     404     200    200     404        404        login
GET    requests/                                    login     200     200    200     200        200        login
GET    requests/fragments/list                      login     200     200    200     200        200        login
GET    requests/<uuid:id>/                          login     404     200    200     200        200        login
GET    requests/<uuid:id>/fragments/request         login     404     200    200     200        200        login
POST   requests/<uuid:id>/cancel                    login     404     302    302     302        302        login
GET    batches/                                     login     200     200    200     200        200        login
POST   batches/                                     login     422     302    302     422        422        login
GET    batches/fragments/list                       login     200     200    200     200        200        login
GET    batches/<uuid:id>/                           login     404     200    404     404        404        login
GET    batches/<uuid:id>/fragments/batch            login     404     200    404     404        404        login
POST   batches/<uuid:id>/cancel                     login     404     302    404     404        404        login
GET    batches/<uuid:id>/input                      login     404     200    404     404        404        login
GET    batches/<uuid:id>/output                     login     404     200    404     404        404        login
GET    batches/<uuid:id>/errors                     login     404     200    404     404        404        login
GET    usage/                                       login     200     200    200     200        200        login
GET    usage/fragments/usage                        login     200     200    200     200        200        login
GET    usage/csv                                    login     200     200    200     200        200        login
GET    login/                                       200       200     200    200     200        200        200
POST   login/                                       200       200     200    200     200        200        200
GET    login/waiting/                               302       302     302    302     302        302        302
POST   login/with/<str:provider_id>/                404       404     404    404     404        404        404
GET    login/with/<str:provider_id>/callback/       404       404     404    404     404        404        404
POST   logout/                                      302       302     302    302     302        302        302
GET    password/                                    login     200     200    200     200        200        login
POST   password/                                    login     403     403    403     403        403        login
GET    tokens/                                      login     200     200    200     200        200        login
POST   tokens/                                      login     422     200    200     422        422        login
POST   tokens/<int:id>/revoke                       login     404     302    404     404        404        login
GET    notices/                                     login     200     200    200     200        200        login
POST   notices/mail                                 login     302     302    302     302        302        login
POST   notices/webhook                              login     302     302    302     302        302        login
GET    projects/                                    login     200     200    200     200        200        login
GET    projects/<slug:slug>/                        login     404     404    200     404        200        login
POST   projects/<slug:slug>/                        login     404     404    302     404        302        login
POST   projects/<slug:slug>/members/<int:id>        login     404     404    302     404        302        login
POST   projects/<slug:slug>/tokens/<int:id>/revoke  login     404     404    302     404        302        login
GET    help/                                        login     200     200    200     200        200        login
GET    now/                                         login     403     403    403     200        200        login
GET    now/fragments/now                            login     403     403    403     200        200        login
GET    now/fragments/charts                         login     403     403    403     200        200        login
GET    queue/                                       login     403     403    403     200        200        login
GET    queue/fragments/queue                        login     403     403    403     200        200        login
GET    fleet/                                       login     403     403    403     200        200        login
GET    fleet/fragments/fleet                        login     403     403    403     200        200        login
GET    fleet/decisions/                             login     403     403    403     200        200        login
GET    fleet/fragments/decisions                    login     403     403    403     200        200        login
POST   fleet/commands/                              login     403     403    403     302        302        login
GET    fleet/pilots/<uuid:id>/                      login     403     403    403     200        200        login
GET    fleet/pilots/<uuid:id>/fragments/pilot       login     403     403    403     200        200        login
"""

# Beside Django: the data plane, which knows tokens and no sessions (so an administrator, who belongs to no project, is
# nobody there), the worker API, and what a load balancer asks.
PLANE = """
                                                  anonymous outsider  user manager operator administrator pilot
POST   /v1/chat/completions                         401       404     200    200     404        401        401
POST   /v1/completions                              401       404     200    200     404        401        401
POST   /v1/embeddings                               401       404     200    200     404        401        401
POST   /v1/responses                                401       404     200    200     404        401        401
GET    /v1/responses/{id}                           401       404     200    404     404        401        401
POST   /v1/responses/{id}/cancel                    401       404     200    404     404        401        401
GET    /v1/models                                   401       200     200    200     200        401        401
GET    /v1/models/{model}                           401       404     200    200     404        401        401
GET    /v1/files                                    401       200     200    200     200        401        401
POST   /v1/files                                    401       200     200    200     200        401        401
GET    /v1/files/{file}                             401       404     200    404     404        401        401
DELETE /v1/files/{file}                             401       404     200    404     404        401        401
GET    /v1/files/{file}/content                     401       404     200    404     404        401        401
GET    /v1/batches                                  401       200     200    200     200        401        401
POST   /v1/batches                                  401       404     200    404     404        401        401
GET    /v1/batches/{batch}                          401       404     200    404     404        401        401
POST   /v1/batches/{batch}/cancel                   401       404     200    404     404        401        401
POST   /worker/v1/register                          401       401     401    401     401        401        200
POST   /worker/v1/sync                              401       401     401    401     401        401        200
POST   /worker/v1/lease                             401       401     401    401     401        401        200
POST   /worker/v1/results                           401       401     401    401     401        401        200
GET    /healthz                                     200       200     200    200     200        200        200
GET    /readyz                                      503       503     503    503     503        503        503
"""

# The admin sends everyone but administrators to the log-in page, from each of its addresses but these.
ADMIN_OPEN = {(address, caller) for address in ("admin/login/", "admin/logout/") for caller in CALLERS}


def rows(table: str) -> dict[tuple[str, str], dict[str, str]]:
    """Read a table into what each caller gets, by (method, address) and caller."""
    heading, *lines = table.strip().splitlines()
    assert tuple(heading.split()) == CALLERS
    found = {}
    for line in lines:
        method, address, *gets = line.split()
        assert len(gets) == len(CALLERS) and (method, address) not in found, line
        found[method, address.removeprefix("/")] = dict(zip(CALLERS, gets, strict=True))
    return found
