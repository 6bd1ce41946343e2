from django.apps import AppConfig
from django.contrib.auth.signals import user_logged_out


class DashboardConfig(AppConfig):
    name = "portal.dashboard"

    def ready(self) -> None:
        from portal.dashboard.playground import forget

        user_logged_out.connect(forget)
