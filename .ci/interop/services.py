"""The participants: a service and a client that Python's OpenTelemetry traces, and ours as a process."""

import json
import os
import subprocess
import threading
from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor

import fastapi
import grpc
import requests
import uvicorn
from opentelemetry import baggage, trace
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
from opentelemetry.instrumentation.grpc import client_interceptor, server_interceptor
from opentelemetry.instrumentation.grpc.grpcext import intercept_channel
from opentelemetry.instrumentation.requests import RequestsInstrumentor
from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.sampling import Decision, ParentBased, Sampler, SamplingResult
from opentelemetry.trace import TraceState

from receiver import PATIENCE
from relay_pb2 import Passed, Route
from relay_pb2_grpc import RelayServicer, RelayStub, add_RelayServicer_to_server

MARKS = [("vendor", "t61rcWkgMzE"), ("a-b*c/d@e", "x y;~")]

Seen = namedtuple("Seen", "headers span_context baggage")


class PythonService(RelayServicer):
    """Takes the first stop off a route and passes the rest on to it; keeps what came with each request."""

    def __init__(self):
        self.receiver = None  # where its spans go
        self.seen = {}  # by trace id, what the last request brought
        tracing = TracerProvider(ParentBased(RootSampler()), Resource.create({"service.name": "python"}))
        tracing.add_span_processor(SimpleSpanProcessor(Straight(self)))
        trace.set_tracer_provider(tracing)
        RequestsInstrumentor().instrument()

        app = fastapi.FastAPI()
        app.add_api_route("/relay", self.over_http, methods=["POST"])
        FastAPIInstrumentor.instrument_app(app, exclude_spans=["receive", "send"])
        config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning")
        socket = config.bind_socket()
        socket.listen()  # the first call may come before the server's thread does
        self._http = uvicorn.Server(config)
        threading.Thread(target=self._http.run, args=[[socket]], daemon=True).start()

        self._grpc = grpc.server(ThreadPoolExecutor(8), interceptors=[server_interceptor()])
        add_RelayServicer_to_server(self, self._grpc)
        self.http = f"http://127.0.0.1:{socket.getsockname()[1]}"
        self.grpc = f"grpc://127.0.0.1:{self._grpc.add_insecure_port('127.0.0.1:0')}"
        self._grpc.start()

    def over_http(self, request: fastapi.Request, stops: list[str]) -> int:
        self._note([(name.decode(), value.decode()) for name, value in request.headers.raw])
        try:
            return call(stops)
        except NoStop as error:
            raise fastapi.HTTPException(400, str(error))

    def Pass(self, route, context):
        self._note([(it.key, it.value) for it in context.invocation_metadata()])
        try:
            return Passed(stops=call(route.stops))
        except NoStop as error:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))

    def _note(self, headers):
        span_context = trace.get_current_span().get_span_context()
        self.seen[span_context.trace_id.to_bytes(16, "big")] = Seen(headers, span_context, baggage.get_all())


class RootSampler(Sampler):
    """What a vendor's sampler does: it decides by the name, and marks the trace in its tracestate."""

    def should_sample(self, parent_context, trace_id, name, *args, **kwargs):
        decision = Decision.DROP if name == "unsampled" else Decision.RECORD_AND_SAMPLE
        return SamplingResult(decision, None, TraceState(MARKS))

    def get_description(self):
        return "RootSampler"


class Straight(SpanExporter):
    """Python's spans reach the receiver as OTLP, and at once."""

    def __init__(self, service):
        self._service = service

    def export(self, spans):
        self._service.receiver.take(encode_spans(spans))


class NoStop(Exception):
    pass


def call(stops, headers={}):
    """Goes to the first stop with the rest of the route, and returns how many were passed."""
    if not stops:
        return 0
    url, rest = stops[0], list(stops[1:])
    scheme, _, address = url.partition("://")
    if scheme == "http":
        response = requests.post(url, json=rest, headers=headers, timeout=PATIENCE)
        response.raise_for_status()
        return 1 + response.json()
    if scheme == "grpc":
        with grpc.insecure_channel(address) as channel:
            stub = RelayStub(intercept_channel(channel, client_interceptor()))
            return 1 + stub.Pass(Route(stops=rest), metadata=list(headers.items()), timeout=PATIENCE).stops
    raise NoStop(url)


def call_untraced(stops, headers={}):
    """The same by a caller who knows nothing of tracing, or writes the headers by hand."""
    with suppress_instrumentation():
        return call(stops, headers)


class RustService:
    """Our service as a process of its own, which exports to the receiver."""

    def __init__(self, receiver, protocol, compression):
        environment = {
            "OTEL_SERVICE_NAME": "rust",
            "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=ci,note=50%25%2C%20k%C3%BChl,service.name=overridden",
            "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoints[protocol],
            "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
            "OTEL_EXPORTER_OTLP_COMPRESSION": compression,
            "OTEL_BSP_SCHEDULE_DELAY": "50",
        }
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
        self._process = subprocess.Popen(
            [os.environ["INTEROP_PEER"]], env=inherited | environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )
        self.pid = self._process.pid
        self.http, self.grpc = self._process.stdout.readline().split()

    def stop(self):
        """Lets it end in good order, and returns its counters."""
        counters, _ = self._process.communicate(timeout=PATIENCE)
        return json.loads(counters)
