"""One trace through services of Rust and Python, whoever calls whom by what; and Python decodes what Rust exports."""

import itertools
import secrets
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import grpc
import pytest
import requests
from opentelemetry import baggage, context, trace
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from receiver import Receiver, attributes
from services import MARKS, PythonService, RustService, call, call_untraced

INTERNAL, SERVER, CLIENT = Span.SPAN_KIND_INTERNAL, Span.SPAN_KIND_SERVER, Span.SPAN_KIND_CLIENT
HAS_IS_REMOTE, IS_REMOTE = 0x100, 0x200

EXPORTS = list(itertools.product(["http/protobuf", "grpc"], ["none", "gzip"]))
tracer = trace.get_tracer("interop")


@pytest.fixture(scope="session")
def python():
    return PythonService()


@pytest.fixture(scope="session", params=EXPORTS, ids=", ".join)
def mesh(request, python):
    """Both services, and what receives the spans of both."""
    protocol, compression = request.param
    receiver = python.receiver = Receiver(compression)
    rust = RustService(receiver, protocol, compression)
    yield SimpleNamespace(receiver=receiver, rust=rust, python=python, protocol=protocol, compression=compression)
    counters = rust.stop()
    receiver.stop()
    mine = [it.span.span_id for it in receiver.received if it.service == "rust"]
    assert counters["started"] == counters["exported"] == len(mine) == len(set(mine)), counters


def stop(service, way):
    return service.grpc if way == "grpc" else f"{service.http}/relay"


def line(spans, parent=b""):
    """The spans from the root, or from below `parent`, to the last, where each is the only child of the one before."""
    assert len({it.span.trace_id for it in spans}) == 1
    children = {it.span.parent_span_id: it for it in spans}
    assert len(children) == len(spans), "two spans have the same parent"
    found = []
    while parent in children:
        found.append(children.pop(parent))
        parent = found[-1].span.span_id
    assert not children, "some spans have no parent"
    return found


def roles(spans):
    return [(it.service, it.span.kind) for it in spans]


def bytes_of(span_context):
    return span_context.trace_id.to_bytes(16, "big"), span_context.span_id.to_bytes(8, "big")


@pytest.mark.parametrize("out", ["http", "grpc"])
@pytest.mark.parametrize("to", ["http", "grpc"])
def test_python_calls_rust_calls_python_in_one_trace(mesh, to, out):
    with tracer.start_as_current_span("order") as order:
        assert call([stop(mesh.rust, to), stop(mesh.python, out)]) == 2
    trace_id, root_id = bytes_of(order.get_span_context())

    spans = line(mesh.receiver.trace(trace_id, 5))
    assert spans[0].span.span_id == root_id
    assert roles(spans) == [
        ("python", INTERNAL),
        ("python", CLIENT),
        ("rust", SERVER),
        ("rust", CLIENT),
        ("python", SERVER),
    ]
    served, called = spans[2], spans[3]
    names = {("http", SERVER): "POST /relay", ("http", CLIENT): "POST"}
    assert served.span.name == names.get((to, SERVER), "relay.Relay/Pass")
    assert called.span.name == names.get((out, CLIENT), "relay.Relay/Pass")
    flags = order.get_span_context().trace_flags
    assert flags & trace.TraceFlags.SAMPLED
    assert served.span.flags == flags | HAS_IS_REMOTE | IS_REMOTE
    assert called.span.flags == flags | HAS_IS_REMOTE
    assert bytes_of(mesh.python.seen[trace_id].span_context)[1] == spans[4].span.span_id


def test_a_trace_passes_each_service_twice(mesh):
    with tracer.start_as_current_span("order") as order:
        there_and_back = [stop(mesh.rust, "http"), stop(mesh.python, "grpc")]
        assert call(there_and_back + [stop(mesh.rust, "grpc"), stop(mesh.python, "http")]) == 4
    trace_id, _ = bytes_of(order.get_span_context())
    assert roles(line(mesh.receiver.trace(trace_id, 9))) == [("python", INTERNAL)] + 2 * [
        ("python", CLIENT),
        ("rust", SERVER),
        ("rust", CLIENT),
        ("python", SERVER),
    ]


@pytest.mark.parametrize("out", ["http", "grpc"])
@pytest.mark.parametrize("to", ["http", "grpc"])
def test_a_trace_that_rust_begins_goes_on_in_python(mesh, to, out):
    mesh.python.seen.clear()
    assert call_untraced([stop(mesh.rust, to), stop(mesh.python, out)]) == 2
    (trace_id,) = mesh.python.seen
    assert roles(line(mesh.receiver.trace(trace_id, 3))) == [("rust", SERVER), ("rust", CLIENT), ("python", SERVER)]


@pytest.mark.parametrize("out", ["http", "grpc"])
@pytest.mark.parametrize("to", ["http", "grpc"])
def test_tracestate_and_baggage_of_python_arrive_unchanged(mesh, to, out):
    bag = {"tenant.id": "acme", "city": "Zürich, 8001", "sum": "1+1=2; 100 %", "quoted": '"\\'}
    with tracer.start_as_current_span("order") as order:
        for name, value in bag.items():
            context.attach(baggage.set_baggage(name, value))
        try:
            call([stop(mesh.rust, to), stop(mesh.python, out)])
        finally:
            context.attach(baggage.clear())
    trace_id, _ = bytes_of(order.get_span_context())

    seen = mesh.python.seen[trace_id]
    assert list(seen.span_context.trace_state.items()) == MARKS
    assert seen.baggage == bag
    for it in line(mesh.receiver.trace(trace_id, 5)):
        assert it.span.trace_state == ",".join(f"{key}={value}" for key, value in MARKS)


@pytest.mark.parametrize("out", ["http", "grpc"])
@pytest.mark.parametrize("to", ["http", "grpc"])
def test_headers_that_python_would_not_write_are_passed_on_to_the_letter(mesh, to, out):
    trace_id, parent_id = secrets.token_hex(16), secrets.token_hex(8)
    sent = {
        "traceparent": f"00-{trace_id}-{parent_id}-03",
        "tracestate": "fw529a3039@dt=FfAAA;x,es=s:0.5,0123=:/?",
        "baggage": "user=alice;ttl=3;internal,plus=1+1,escaped=%41%2B,empty=",
    }
    call_untraced([stop(mesh.rust, to), stop(mesh.python, out)], sent)

    spans = mesh.receiver.trace(bytes.fromhex(trace_id), 3)
    served, called, _ = (it.span for it in line(spans, bytes.fromhex(parent_id)))
    assert served.flags & 0xFF == called.flags & 0xFF == 3
    headers = mesh.python.seen[bytes.fromhex(trace_id)].headers
    assert [value for name, value in headers if name == "traceparent"] == [f"00-{trace_id}-{called.span_id.hex()}-03"]
    for name in ["tracestate", "baggage"]:
        assert [value for each, value in headers if each == name] == [sent[name]]


@pytest.mark.parametrize("way", ["http", "grpc"])
def test_what_python_does_not_sample_is_passed_on_and_not_exported(mesh, way):
    with tracer.start_as_current_span("unsampled") as unsampled:
        call([stop(mesh.rust, way), stop(mesh.python, way)])
    trace_id, _ = bytes_of(unsampled.get_span_context())
    seen = mesh.python.seen[trace_id].span_context
    assert not seen.trace_flags.sampled

    # Spans leave in the order in which they end: when those of a later trace are here, others would be, too.
    with tracer.start_as_current_span("later") as later:
        call([stop(mesh.rust, way)])
    assert len(mesh.receiver.trace(bytes_of(later.get_span_context())[0], 3)) == 3
    assert mesh.receiver.trace(trace_id, 0) == []


def test_an_error_of_python_over_grpc_is_the_clients_error(mesh):
    mesh.python.seen.clear()
    with pytest.raises(grpc.RpcError) as error:
        call_untraced([mesh.rust.grpc, mesh.python.grpc, "nowhere"])
    assert error.value.code() == grpc.StatusCode.UNAVAILABLE
    (trace_id,) = mesh.python.seen
    served, called, _ = line(mesh.receiver.trace(trace_id, 3))
    assert attributes(called.span).items() >= {
        "rpc.system.name": "grpc",
        "rpc.method": "relay.Relay/Pass",
        "rpc.status_code": "INVALID_ARGUMENT",
        "error.type": "INVALID_ARGUMENT",
        "server.address": "127.0.0.1",
        "server.port": int(mesh.python.grpc.rpartition(":")[2]),
    }.items()
    assert called.span.status.code == Status.STATUS_CODE_ERROR
    assert attributes(served.span)["rpc.status_code"] == "UNAVAILABLE"
    assert served.span.status.code == Status.STATUS_CODE_ERROR


def test_an_error_of_python_over_http_is_the_clients_error(mesh):
    mesh.python.seen.clear()
    with pytest.raises(requests.HTTPError) as error:
        call_untraced([stop(mesh.rust, "http"), stop(mesh.python, "http"), "nowhere"])
    assert error.value.response.status_code == 502
    (trace_id,) = mesh.python.seen
    served, called, _ = line(mesh.receiver.trace(trace_id, 3))
    assert attributes(called.span).items() >= {
        "http.request.method": "POST",
        "http.response.status_code": 400,
        "error.type": "400",
        "network.protocol.version": "1.1",
        "server.address": "127.0.0.1",
        "server.port": int(mesh.python.http.rpartition(":")[2]),
        "url.full": stop(mesh.python, "http"),
    }.items()
    assert called.span.status.code == Status.STATUS_CODE_ERROR
    assert attributes(served.span)["http.response.status_code"] == 502
    assert served.span.status.code == Status.STATUS_CODE_ERROR


def test_python_reads_an_error_of_rust_from_its_trailers(mesh):
    with tracer.start_as_current_span("order") as order, pytest.raises(grpc.RpcError) as error:
        call([mesh.rust.grpc, "nowhere"])
    assert (error.value.code(), error.value.details()) == (grpc.StatusCode.INVALID_ARGUMENT, "nowhere")
    trace_id, _ = bytes_of(order.get_span_context())
    *_, served = line(mesh.receiver.trace(trace_id, 3))
    assert attributes(served.span)["rpc.status_code"] == "INVALID_ARGUMENT"
    assert served.span.status.code == Status.STATUS_CODE_UNSET


def test_many_traces_at_once_do_not_mix(mesh):
    ways = list(itertools.product(["http", "grpc"], repeat=2))

    def order(number):
        with tracer.start_as_current_span("order") as order:
            context.attach(baggage.set_baggage("number", str(number)))
            to, out = ways[number % len(ways)]
            call([stop(mesh.rust, to), stop(mesh.python, out)])
            context.attach(baggage.clear())
        return bytes_of(order.get_span_context())[0]

    with ThreadPoolExecutor(16) as pool:
        traces = list(pool.map(order, range(64)))
    for number, trace_id in enumerate(traces):
        assert len(line(mesh.receiver.trace(trace_id, 5))) == 5
        assert mesh.python.seen[trace_id].baggage == {"number": str(number)}


@pytest.fixture(scope="session")
def sample(mesh):
    """The spans of the peer's `sample.rs`, by name."""
    with tracer.start_as_current_span("sample") as order:
        assert requests.get(f"{mesh.rust.http}/sample").status_code == 204
    trace_id, _ = bytes_of(order.get_span_context())
    # The caller's two, the request, one with everything, six of kinds, two of status, the crowded, the large.
    spans = mesh.receiver.trace(trace_id, 14)
    assert len(spans) == 14
    return {it.span.name: it for it in spans if it.service == "rust"}


def test_python_decodes_every_type_of_attribute(sample):
    expected = {
        "text": "Grüße, 世界 🦀\0\n",
        "text.empty": "",
        "bool.true": True,
        "bool.false": False,
        "int": 42,
        "int.zero": 0,
        "int.min": -(2**63),
        "int.max": 2**63 - 1,
        "int.beyond": 2**63 - 1,
        "double": 0.1,
        "double.zero": 0.0,
        "double.infinity": float("-inf"),
        "bytes": b"\x00\xff\x80",
        "bytes.empty": b"",
        "texts": ["a", "", "c"],
        "ints": [1, -1],
        "doubles": [1.5, -0.25],
        "bools": [True, False],
        "array": [1, "two", []],
        "map": {"a": True, "b": [2.5]},
        "formatted": "007",
    }
    # By their text, because Python takes 1, 1.0 and True for the same.
    found = attributes(sample["everything, ünïcode"].span)
    assert sorted(map(repr, found.items())) == sorted(map(repr, expected.items()))


def test_python_decodes_times_events_and_links(sample):
    span = sample["everything, ünïcode"].span
    assert span.kind == Span.SPAN_KIND_PRODUCER
    assert span.start_time_unix_nano == 1_700_000_000_123_456_789
    assert span.end_time_unix_nano == span.start_time_unix_nano + 1_500_000_000

    plain, rich = span.events
    assert (plain.name, attributes(plain)) == ("plain", {})
    assert (rich.name, attributes(rich)) == ("with attributes", {"attempt": 2, "last": True})
    assert abs(time.time() - rich.time_unix_nano / 1e9) < 60
    assert plain.time_unix_nano <= rich.time_unix_nano

    retry, bare = span.links
    for link in span.links:
        assert link.trace_id.hex() == "0af7651916cd43dd8448eb211c80319c"
        assert link.span_id.hex() == "b7ad6b7169203331"
    assert (attributes(retry), retry.flags) == ({"reason": "retry"}, 1 | HAS_IS_REMOTE | IS_REMOTE)
    assert (attributes(bare), bare.flags) == ({}, HAS_IS_REMOTE)
    assert not (span.dropped_attributes_count or span.dropped_events_count or span.dropped_links_count)

    now = time.time_ns()
    for it in sample.values():
        if it.span is not span:
            assert now - 60e9 < it.span.start_time_unix_nano <= it.span.end_time_unix_nano < now + 1e9


def test_python_decodes_every_kind_and_status(sample):
    for number, name in enumerate(["internal", "server", "client", "producer", "consumer"], start=1):
        assert sample[name].span.kind == number
        assert sample[name].span.parent_span_id == sample["kinds"].span.span_id
    assert sample["kinds"].span.status == Status()
    assert sample["status ok"].span.status == Status(code=Status.STATUS_CODE_OK)
    failed = sample["status error"].span
    assert failed.status == Status(code=Status.STATUS_CODE_ERROR, message="es dauerte zu lange")
    assert attributes(failed) == {"error.type": "timeout"}


def test_python_decodes_what_was_cut(sample):
    span = sample["crowded"].span
    assert (len(span.attributes), len(span.events), len(span.links)) == (128, 128, 128)
    dropped = (span.dropped_attributes_count, span.dropped_events_count, span.dropped_links_count)
    assert dropped == (129, 130, 130)
    for crowded in span.events[0], span.links[0]:
        assert (len(attributes(crowded)), crowded.dropped_attributes_count) == (128, 129)
    assert attributes(sample["large"].span) == {"text": 15_000 * "ü"}


def test_python_decodes_scope_and_resource(mesh, sample):
    for it in sample.values():
        if it.span.kind != SERVER or it.span.name == "server":
            assert (it.scope.name, it.scope.version) == ("interop.sample", "1.2.3")
        else:
            assert (it.scope.name, it.scope.version) == ("trace-axum", "0.1.0")
        assert it.resource.items() >= {
            "service.name": "rust",
            "deployment.environment.name": "ci",
            "note": "50%, kühl",
            "process.pid": mesh.rust.pid,
            "telemetry.sdk.language": "rust",
            "telemetry.sdk.name": "trace-core",
        }.items()


def test_spans_come_by_the_protocol_and_compression_that_were_asked_for(mesh, sample):
    expected = {
        ("http/protobuf", "none"): "http/protobuf, None",
        ("http/protobuf", "gzip"): "http/protobuf, gzip",
        ("grpc", "none"): "grpc",
        ("grpc", "gzip"): "grpc",
    }
    assert mesh.receiver.deliveries == {expected[mesh.protocol, mesh.compression]}


def test_gzip_over_grpc_is_gzip(python):
    """gRPC's core does not tell how a message came; but one that takes no gzip refuses it."""
    receiver = Receiver("none")
    rust = RustService(receiver, "grpc", "gzip")
    call_untraced([stop(rust, "http")])
    counters = rust.stop()
    receiver.stop()
    assert (counters["started"], counters["exported"], receiver.received) == (1, 0, [])
