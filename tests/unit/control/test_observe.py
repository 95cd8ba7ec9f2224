"""Envoy's admin port, as far as one can be wrong about it; the real one is asked in tests/envoy."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from forebay.control import ClusterState, logs_dropped, observe
from forebay.control.observe import Versions, versions
from forebay.errors import ObserveError


@contextmanager
def admin(status: int, body: bytes) -> Iterator[str]:
    class Admin(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            """Keep quiet."""

    server = HTTPServer(("127.0.0.1", 0), Admin)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_an_endpoint_is_healthy_when_no_check_failed_on_it() -> None:
    hosts = [
        {"health_status": {"eds_health_status": "HEALTHY"}},
        {"health_status": {"eds_health_status": "HEALTHY", "failed_active_health_check": True}},
        {"health_status": {"eds_health_status": "HEALTHY", "failed_outlier_check": True}},
        {"health_status": {"eds_health_status": "DRAINING"}},
        {},
    ]
    body = {"cluster_statuses": [{"name": "a", "host_statuses": hosts}, {"name": "b"}]}
    with admin(200, json.dumps(body).encode()) as address:
        assert observe(address) == {"a": ClusterState(5, 2), "b": ClusterState(0, 0)}


def test_versions_of_our_table_alone_count() -> None:
    configs = [
        {"@type": "x/envoy.admin.v3.ClustersConfigDump", "version_info": "c1"},
        {
            "@type": "x/envoy.admin.v3.RoutesConfigDump",
            "dynamic_route_configs": [
                {"version_info": "other", "route_config": {"name": "other"}},
                {"version_info": "r1", "route_config": {"name": "forebay"}},
            ],
        },
    ]
    with admin(200, json.dumps({"configs": configs}).encode()) as address:
        assert versions(address, "forebay") == Versions("c1", "r1")


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (500, b"{}"),
        (200, b"no json"),
        (200, b"[]"),
        (200, b'{"cluster_statuses": [1]}'),
        (200, b'{"cluster_statuses": 1}'),
    ],
)
def test_an_answer_that_is_not_envoys_is_said(status: int, body: bytes) -> None:
    with admin(status, body) as address, pytest.raises(ObserveError, match=r"(?i)envoy"):
        observe(address)


def test_a_port_that_is_away_is_said() -> None:
    with pytest.raises(ObserveError, match="did not answer"):
        observe("127.0.0.1:1", timeout_s=0.5)
    with pytest.raises(ObserveError, match="`nowhere`"):
        observe("nowhere")


def test_lost_log_entries_are_counted() -> None:
    name = "access_logs.grpc_access_log.logs_dropped"
    with admin(200, json.dumps({"stats": [{"name": name, "value": 7}]}).encode()) as address:
        assert logs_dropped(address) == 7
    # Envoy has no such counter before its first log opens.
    with admin(200, b'{"stats": [{"histograms": {}}]}') as address:
        assert logs_dropped(address) == 0


@pytest.mark.parametrize(
    "body", [b"{}", b'{"stats": 1}', b'{"stats": [{"name": "access_logs.grpc_access_log.logs_dropped"}]}']
)
def test_an_answer_without_statistics_is_said(body: bytes) -> None:
    with admin(200, body) as address, pytest.raises(ObserveError, match="stats"):
        logs_dropped(address)
