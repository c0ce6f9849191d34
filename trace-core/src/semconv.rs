//! The attribute keys of OpenTelemetry's semantic conventions (version 1.44) that these crates set.
//!
//! Each is a [`Key`] that a span recognises by one bit.
//!
//! ```
//! use trace_core::{SpanKind, semconv};
//!
//! let span = trace_core::span("LPUSH").kind(SpanKind::Client).attribute(semconv::DB_SYSTEM_NAME, "redis");
//! ```

use crate::span::{Key, Known};

/// The key of this name, if it is one of these.
pub(crate) fn find(name: &str) -> Option<Known> {
    let mut next = BUCKETS.first[bucket(name)];
    while let Some(place) = next.checked_sub(1).map(usize::from) {
        let key = ALL[place];
        if key.as_str() == name {
            return key.known_as();
        }
        next = BUCKETS.next[place];
    }
    None
}

/// A number below 64 that tells most keys apart: by their length, their last byte and one in the middle.
#[inline(always)]
pub(crate) const fn bucket(name: &str) -> usize {
    let bytes = name.as_bytes();
    let Some(last) = bytes.last() else { return 0 };
    (bytes.len() + 7 * *last as usize + 29 * bytes[bytes.len() / 2] as usize) % Known::MAX
}

/// The keys of each [`bucket`], as a list; every number is the place of a key, counted from 1, or 0 at the end of a list.
struct Buckets {
    first: [u8; Known::MAX],
    next: [u8; Known::MAX],
}

impl Buckets {
    const fn of(names: &[&str]) -> Self {
        let mut buckets = Self { first: [0; Known::MAX], next: [0; Known::MAX] };
        let mut place = 0;
        while place < names.len() {
            let first = &mut buckets.first[bucket(names[place])];
            buckets.next[place] = *first;
            *first = place as u8 + 1;
            place += 1;
        }
        buckets
    }
}

macro_rules! keys {
    ($($(#[$doc:meta])* $constant:ident = $name:literal;)*) => {
        keys!(@ [] $($(#[$doc])* $constant = $name;)*);
        /// Every key above, in order: the place of a key is its bit.
        pub(crate) static ALL: &[Key<'static>] = &[$($constant),*];

        static BUCKETS: Buckets = Buckets::of(&[$($name),*]);
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
    fn every_key_is_found_by_its_name() {
        for key in ALL {
            assert!(find(key.as_str()) == key.known_as(), "{key:?}");
        }
        for name in ["", "http.request.metho", "shop.order", "x"] {
            assert!(find(name).is_none(), "{name:?}");
        }
    }

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
