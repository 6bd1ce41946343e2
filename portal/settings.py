"""Django's settings, all derived from `portal.config`. Nothing here reads the environment."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

import django_stubs_ext

from portal.config import config
from portal.redis import keys

# Lets `ModelAdmin[Pilot]` and the like, which mypy wants, run.
django_stubs_ext.monkeypatch()

_config = config()
_database = urlsplit(_config.database_url)

BASE_DIR = Path(__file__).resolve().parent.parent
SECRET_KEY = _config.secret_key
DEBUG = _config.debug
ALLOWED_HOSTS = list(_config.allowed_hosts)
CSRF_TRUSTED_ORIGINS = list(_config.origins)

INSTALLED_APPS = [
    "portal.dashboard",  # first: its templates take the place of the admin's
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "rest_framework",
    "drf_spectacular",
    "django_htmx",
    "allauth",
    "allauth.account",
    "allauth.socialaccount",
    "allauth.socialaccount.providers.openid_connect",
    "portal.accounts",
    "portal.catalog",
    "portal.ledger",
    "portal.fleet",
    "portal.audit",
    "portal.notices",
    "portal.api",
    "portal.console",
    "scheduler",
    "portal.panel",  # last: it takes away pages of others
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "portal.dashboard.csp.ContentSecurityPolicy",
    "portal.api.addresses.WithoutNul",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "portal.audit.actor.Acting",
    "portal.accounts.sessions.Ages",
    "allauth.account.middleware.AccountMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "django_htmx.middleware.HtmxMiddleware",
]

ROOT_URLCONF = "portal.urls"
ASGI_APPLICATION = "portal.asgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]

DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": _database.path.lstrip("/"),
        "USER": unquote(_database.username or ""),
        "PASSWORD": unquote(_database.password or ""),
        "HOST": _database.hostname or "",
        "PORT": _database.port or "",
        "CONN_MAX_AGE": 60,
        "CONN_HEALTH_CHECKS": True,
    }
}
# Holds only what may be lost: the counts of wrong passwords.
CACHES = {
    "default": {
        "BACKEND": "django.core.cache.backends.redis.RedisCache",
        "LOCATION": _config.redis_url,
        "KEY_PREFIX": keys.CACHE.of(),
        "OPTIONS": {"socket_timeout": 1.0, "socket_connect_timeout": 1.0},
    }
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

AUTH_USER_MODEL = "accounts.User"
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 12}},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]
LOGIN_URL = "login"
LOGIN_REDIRECT_URL = "home"
LOGOUT_REDIRECT_URL = "login"

# Single sign-on. Providers are no settings of Django's: portal.accounts.sso takes them from the configuration.
ACCOUNT_ADAPTER = "portal.accounts.sso.AccountAdapter"
SOCIALACCOUNT_ADAPTER = "portal.accounts.sso.Identities"
ACCOUNT_EMAIL_VERIFICATION = SOCIALACCOUNT_EMAIL_VERIFICATION = "none"
ACCOUNT_LOGIN_METHODS = {"username"}
ACCOUNT_SIGNUP_FIELDS = ["username*", "password1*"]
SOCIALACCOUNT_STORE_TOKENS = False
SOCIALACCOUNT_REQUESTS_TIMEOUT = 10

# Without a server nothing is sent, and nothing is meant to be.
EMAIL_BACKEND = f"django.core.mail.backends.{'smtp' if _config.mail.host else 'dummy'}.EmailBackend"
EMAIL_HOST, EMAIL_PORT, EMAIL_TIMEOUT = _config.mail.host, _config.mail.port, 10
EMAIL_HOST_USER, EMAIL_HOST_PASSWORD = _config.mail.user, _config.mail.password
EMAIL_USE_TLS, EMAIL_USE_SSL = _config.mail.tls == "starttls", _config.mail.tls == "tls"
DEFAULT_FROM_EMAIL = _config.mail.sender

# Larger bodies are refused before they are read.
DATA_UPLOAD_MAX_MEMORY_SIZE = _config.max_body_bytes

SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = _config.secure_cookies
SESSION_COOKIE_HTTPONLY = True
SESSION_COOKIE_AGE = int(_config.session_most_s)
if _config.secure_cookies:
    # The prefix makes browsers refuse cookies of these names that another host of the domain sets.
    SESSION_COOKIE_NAME, CSRF_COOKIE_NAME = "__Host-sessionid", "__Host-csrftoken"
SECURE_CONTENT_TYPE_NOSNIFF = True
X_FRAME_OPTIONS = "DENY"
SECURE_REFERRER_POLICY = "same-origin"

LANGUAGE_CODE = "en"
USE_I18N = False
FORMAT_MODULE_PATH = "portal.panel.formats"  # without it Django writes as its locale of the language says
TIME_ZONE = "UTC"
USE_TZ = True
STATIC_URL = "/static/"
STATICFILES_DIRS = [BASE_DIR / "static"]
# Files are served from static/ itself: no collectstatic step is needed to run.
WHITENOISE_USE_FINDERS = True
WHITENOISE_AUTOREFRESH = DEBUG

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "portal.api.authentication.TokenAuthentication",
        "rest_framework.authentication.SessionAuthentication",
    ],
    "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["portal.api.parsers.ObjectParser"],
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "EXCEPTION_HANDLER": "portal.api.errors.handler",
    "UNAUTHENTICATED_USER": None,
    # Answers of engines may hold half a surrogate pair, which UTF-8 cannot.
    "UNICODE_JSON": False,
}
SPECTACULAR_SETTINGS = {
    "TITLE": "Berth",
    "DESCRIPTION": "What programs ask: OpenAI's API under /v1, Berth's own under /api/v1.",
    "VERSION": "1",
    "POSTPROCESSING_HOOKS": [
        "drf_spectacular.hooks.postprocess_schema_enums",
        "portal.api.document.complete",
    ],
    "SERVE_INCLUDE_SCHEMA": False,
}

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "{asctime} {levelname} {name}: {message}", "style": "{"}},
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {"handlers": ["console"], "level": "INFO"},
}
