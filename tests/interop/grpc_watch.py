"""gRPC's health service by `grpcio`: `grpc_watch.py serve CHAIN KEY`, or `grpc_watch.py ask TARGET CA`

The service `changing` becomes healthy and ill again while it is watched; `nobody` is not known.
"""

import sys
import time
from concurrent import futures
from pathlib import Path

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

SERVING, ILL = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


def serving(chain, key):
    server = grpc.server(futures.ThreadPoolExecutor(64))
    # A thread for each watch. In its other mode a `set` and a client that leaves can wait for each other for ever.
    service = health.HealthServicer(experimental_non_blocking=False)
    service.set("", SERVING)
    service.set("changing", ILL)
    health_pb2_grpc.add_HealthServicer_to_server(service, server)
    own = grpc.ssl_server_credentials([(Path(key).read_bytes(), Path(chain).read_bytes())])
    port = server.add_secure_port("127.0.0.1:0", own)
    server.start()
    print(f"127.0.0.1:{port}", flush=True)
    for turn in range(1_000_000):
        time.sleep(0.2)
        service.set("changing", ILL if turn % 2 else SERVING)


def asking(target, authority):
    trust = grpc.ssl_channel_credentials(Path(authority).read_bytes())
    with grpc.secure_channel(target, trust) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        whole = health_pb2.HealthCheckRequest()
        for answer in [stub.Check.future(whole, timeout=30) for _ in range(500)]:
            assert answer.result().status == SERVING

        # An answer of trailers alone.
        try:
            stub.Check(health_pb2.HealthCheckRequest(service="nobody"), timeout=30)
            raise AssertionError("nobody is well")
        except grpc.RpcError as error:
            assert error.code() == grpc.StatusCode.NOT_FOUND, error

        changing = health_pb2.HealthCheckRequest(service="changing")
        with futures.ThreadPoolExecutor(8) as threads:
            for seen in threads.map(changes, [stub.Watch(changing, timeout=60) for _ in range(8)]):
                assert all(before != after for before, after in zip(seen, seen[1:])), seen

        # A deadline that passes in the middle of a stream, which then is its client's.
        try:
            for _ in stub.Watch(whole, timeout=0.5):
                pass
            raise AssertionError("it has no end of its own")
        except grpc.RpcError as error:
            assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED, error
        assert stub.Check(whole, timeout=30).status == SERVING


def changes(watch):
    """The first of what is watched; then it is left."""
    seen = [next(watch).status for _ in range(5)]
    watch.cancel()
    return seen


if sys.argv[1] == "serve":
    serving(*sys.argv[2:])
else:
    asking(*sys.argv[2:])
