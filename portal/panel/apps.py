from django.apps import AppConfig, apps

from portal.panel.labels import relabel


class PanelConfig(AppConfig):
    name = "portal.panel"

    def ready(self) -> None:
        ours = [config for config in apps.get_app_configs() if config.name.startswith("portal.")]
        relabel(table for config in ours for table in config.get_models())
