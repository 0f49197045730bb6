"""Settings, their domains, the problems found in them, and the registries of plug-ins."""
