"""Dashboards as code, and what Grafana and Prometheus are set up with. `python -m grafana.build` writes the JSON."""
