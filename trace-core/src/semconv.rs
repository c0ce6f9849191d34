//! The attribute keys of OpenTelemetry's semantic conventions (version 1.44) that these crates set.
//!
//! Each is a [`Key`] that a span recognises by one bit.
//!
//! ```
//! use trace_core::{SpanKind, semconv};
//!
//! let span = trace_core::span("LPUSH").kind(SpanKind::Client).attribute(semconv::DB_SYSTEM_NAME, "redis");
//! ```

use crate::span::Key;

macro_rules! keys {
    ($($(#[$doc:meta])* $constant:ident = $name:literal;)*) => {
        keys!(@ [] $($(#[$doc])* $constant = $name;)*);
        /// Every key above, in order: the place of a key is its bit.
        #[cfg(test)]
        const ALL: &[Key<'static>] = &[$($constant),*];
    };
    // The index of a key is the number of keys before it.
    (@ [$($before:literal)*] $(#[$doc:meta])* $constant:ident = $name:literal; $($rest:tt)*) => {
        $(#[$doc])*
        pub const $constant: Key<'static> = {
            const BEFORE: &[&str] = &[$($before),*];
            Key::known($name, BEFORE.len() as u8)
        };
        keys!(@ [$($before)* $name] $($rest)*);
    };
    (@ [$($before:literal)*]) => {};
}

keys! {
    /// The request's method, upper case; `_OTHER` for one that the conventions do not know.
    HTTP_REQUEST_METHOD = "http.request.method";
    /// The method as it was sent, when it is not a known one.
    HTTP_REQUEST_METHOD_ORIGINAL = "http.request.method_original";
    /// How many times the request was sent again, by a retry or a redirect.
    HTTP_REQUEST_RESEND_COUNT = "http.request.resend_count";
    /// The response's status, a whole number.
    HTTP_RESPONSE_STATUS_CODE = "http.response.status_code";
    /// The matched route, such as `/orders/{id}`.
    HTTP_ROUTE = "http.route";
    /// The absolute URL of a request that is sent, without secrets.
    URL_FULL = "url.full";
    /// The path of a URL.
    URL_PATH = "url.path";
    /// The query of a URL, without secrets.
    URL_QUERY = "url.query";
    /// `http` or `https`.
    URL_SCHEME = "url.scheme";
    /// The low-cardinality template of a path that is called.
    URL_TEMPLATE = "url.template";
    /// The name or address of the server, as the client knows it.
    SERVER_ADDRESS = "server.address";
    /// The port of the server.
    SERVER_PORT = "server.port";
    /// The address of the client, behind proxies if they are trusted.
    CLIENT_ADDRESS = "client.address";
    /// The port of the client.
    CLIENT_PORT = "client.port";
    /// The address at the other end of the connection.
    NETWORK_PEER_ADDRESS = "network.peer.address";
    /// The port at the other end of the connection.
    NETWORK_PEER_PORT = "network.peer.port";
    /// The application protocol, when it is not `http`.
    NETWORK_PROTOCOL_NAME = "network.protocol.name";
    /// The version of the protocol: `1.1`, `2`, `3`.
    NETWORK_PROTOCOL_VERSION = "network.protocol.version";
    /// The `User-Agent` header.
    USER_AGENT_ORIGINAL = "user_agent.original";
    /// The class of an error; set exactly when the status is Error.
    ERROR_TYPE = "error.type";
    /// The remote procedure call system: `grpc`.
    RPC_SYSTEM_NAME = "rpc.system.name";
    /// The fully qualified method: `package.Service/Method`; `_OTHER` when it is unknown.
    RPC_METHOD = "rpc.method";
    /// The method as it was called, when it is not a known one.
    RPC_METHOD_ORIGINAL = "rpc.method_original";
    /// The status of the call by name: `OK`, `DEADLINE_EXCEEDED`.
    RPC_STATUS_CODE = "rpc.status_code";
    /// The database product: `sqlite`, `postgresql`.
    DB_SYSTEM_NAME = "db.system.name";
    /// The table, or whatever the database calls its collections.
    DB_COLLECTION_NAME = "db.collection.name";
    /// The database's name, qualified as the system does it.
    DB_NAMESPACE = "db.namespace";
    /// The operation: `SELECT`.
    DB_OPERATION_NAME = "db.operation.name";
    /// The number of queries in a batch, from 2.
    DB_OPERATION_BATCH_SIZE = "db.operation.batch.size";
    /// The database's own status or error code.
    DB_RESPONSE_STATUS_CODE = "db.response.status_code";
    /// The number of rows that a query returned.
    DB_RESPONSE_RETURNED_ROWS = "db.response.returned_rows";
    /// A low-cardinality summary of the query: `SELECT orders`.
    DB_QUERY_SUMMARY = "db.query.summary";
    /// The query's text without its values.
    DB_QUERY_TEXT = "db.query.text";
    /// The name of a stored procedure.
    DB_STORED_PROCEDURE_NAME = "db.stored_procedure.name";
    /// The type of an exception.
    EXCEPTION_TYPE = "exception.type";
    /// The text of an exception.
    EXCEPTION_MESSAGE = "exception.message";
    /// The file of the code that made the span.
    CODE_FILE_PATH = "code.file.path";
    /// The line in that file.
    CODE_LINE_NUMBER = "code.line.number";
    /// The function that made the span, with its module.
    CODE_FUNCTION_NAME = "code.function.name";
    /// The id of the thread.
    THREAD_ID = "thread.id";
    /// The name of the thread.
    THREAD_NAME = "thread.name";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_has_a_bit_of_its_own() {
        let mut seen = 0u64;
        for key in ALL {
            let bit = key.known_as().map(|known| known.bit()).expect("a constant is known");
            assert_eq!(seen & bit, 0, "{key:?}");
            seen |= bit;
        }
        assert_eq!(seen.count_ones() as usize, ALL.len());
    }
}
