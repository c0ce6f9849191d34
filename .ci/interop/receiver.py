"""A backend: it takes OTLP over HTTP and gRPC, decodes it by Python's opentelemetry-proto, and keeps the spans."""

import gzip
import threading
from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import grpc
from google.protobuf.unknown_fields import UnknownFieldSet
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

PATIENCE = 20  # seconds to wait for an answer, or for spans that are to come

Received = namedtuple("Received", "service resource scope span")


class Receiver(trace_service_pb2_grpc.TraceServiceServicer):
    """`compression` is what it understands: "gzip", or "none" alone."""

    def __init__(self, compression):
        self.compression = compression
        self.received = []
        self.deliveries = set()  # the ways by which requests came over the network
        self._news = threading.Condition()

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        threading.Thread(target=self._http.serve_forever, daemon=True).start()
        # Of the algorithms of gRPC's core, the first is none. Which one a message came by, the core does not tell.
        algorithms = [("grpc.compression_enabled_algorithms_bitset", 0b001)] if compression == "none" else []
        self._grpc = grpc.server(ThreadPoolExecutor(4), options=algorithms)
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(self, self._grpc)
        self.endpoints = {
            "http/protobuf": f"http://127.0.0.1:{self._http.server_port}",
            "grpc": f"http://127.0.0.1:{self._grpc.add_insecure_port('127.0.0.1:0')}",
        }
        self._grpc.start()

    def stop(self):
        self._http.shutdown()
        self._grpc.stop(None)

    def Export(self, request, context):
        self.take(request, "grpc")
        return ExportTraceServiceResponse()

    def take(self, request, delivery=None):
        """Keeps the spans of a request; `delivery` tells how it came, if it came over the network."""
        _refuse_unknown_fields(request)
        with self._news:
            self.deliveries |= {delivery} - {None}
            for group in request.resource_spans:
                resource = attributes(group.resource)
                for spans in group.scope_spans:
                    for span in spans.spans:
                        self.received.append(Received(resource["service.name"], resource, spans.scope, span))
            self._news.notify_all()

    def trace(self, trace_id, count):
        """The spans of a trace, as soon as there are `count` of them."""
        def those():
            return [it for it in self.received if it.span.trace_id == trace_id]

        with self._news:
            self._news.wait_for(lambda: len(those()) >= count, PATIENCE)
            return those()


def _handler(receiver):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            assert self.path == "/v1/traces" and self.headers["content-type"] == "application/x-protobuf"
            body = self.rfile.read(int(self.headers["content-length"]))
            encoding = self.headers["content-encoding"]
            if encoding is not None:
                assert encoding == receiver.compression == "gzip"
                body = gzip.decompress(body)
            receiver.take(ExportTraceServiceRequest.FromString(body), f"http/protobuf, {encoding}")
            answer = ExportTraceServiceResponse().SerializeToString()
            self.send_response(200)
            self.send_header("content-type", "application/x-protobuf")
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_):
            pass

    return Handler


def _refuse_unknown_fields(message):
    """A field that opentelemetry-proto does not know would be kept silently."""
    assert len(UnknownFieldSet(message)) == 0, message
    for field, value in message.ListFields():
        if field.message_type:
            for each in value if field.is_repeated else [value]:
                _refuse_unknown_fields(each)


def attributes(message):
    """The attributes of a resource, a span, an event or a link, by their names, which must not stand twice."""
    values = {it.key: native(it.value) for it in message.attributes}
    assert len(values) == len(message.attributes), message
    return values


def native(value):
    """An AnyValue as a value of Python."""
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [native(it) for it in value.array_value.values]
    if kind == "kvlist_value":
        return {it.key: native(it.value) for it in value.kvlist_value.values}
    return getattr(value, kind)
