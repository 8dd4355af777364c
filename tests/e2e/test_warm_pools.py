"""Warm pools, as an operator sizes them and a first request meets them."""

import os
import shutil
import time

import pytest
from tests.e2e.server import Server

from ignite.v1 import ignite_admin_pb2 as pb
from ignite.v1.ignite_admin_pb2_grpc import AdminServiceStub

FILL_SECS = 30.0


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: the fork server")
@pytest.mark.skipif(shutil.which("bwrap") is None, reason="needs bubblewrap")
def test_a_pool_is_filled_to_the_size_an_operator_sets(server: Server) -> None:
    with server.admin_channel() as channel:
        stub = AdminServiceStub(channel)
        (pool,) = stub.ListWarmPools(pb.ListWarmPoolsRequest()).pools
        assert pool.runtime == "python"
        request = pb.SetWarmPoolSizeRequest(
            runtime=pool.runtime, runtime_version=pool.runtime_version, size=3
        )
        assert stub.SetWarmPoolSize(request).pool.size == 3
        ends = time.monotonic() + FILL_SECS
        while pool.ready < 3:
            assert time.monotonic() < ends, pool
            (pool,) = stub.ListWarmPools(pb.ListWarmPoolsRequest()).pools
        request.size = 2
        assert stub.SetWarmPoolSize(request).pool.size == 2
