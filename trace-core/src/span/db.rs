//! The database call: the unit of work that every service has.
//!
//! A span by the [semantic conventions for database clients](https://opentelemetry.io/docs/specs/semconv/db/database-spans/):
//! what is said of the query makes the span's name and its attributes.
//!
//! ```
//! use trace_core::db;
//!
//! # struct Row;
//! # struct Error;
//! # async fn fetch(sql: &str) -> Result<Row, Error> { Ok(Row) }
//! # async fn example() -> Result<Row, Error> {
//! const SQL: &str = "SELECT id, total FROM orders WHERE id = ?";
//!
//! let row = db::query("sqlite")
//!     .operation("SELECT")
//!     .collection("orders")
//!     .text(SQL)
//!     .try_run(fetch(SQL))
//!     .await?;
//! # Ok(row)
//! # }
//! ```

use std::fmt::{self, Write};

use super::{Run, Scope, Span, SpanBuilder, SpanKind, SpanRef, display, span};
use crate::otlp::encode::cut_bytes;
use crate::pipeline::Tracer;
use crate::semconv::{
    DB_COLLECTION_NAME, DB_NAMESPACE, DB_OPERATION_BATCH_SIZE, DB_OPERATION_NAME, DB_QUERY_SUMMARY,
    DB_QUERY_TEXT, DB_RESPONSE_STATUS_CODE, DB_STORED_PROCEDURE_NAME, DB_SYSTEM_NAME, NETWORK_PEER_ADDRESS,
    NETWORK_PEER_PORT, SERVER_ADDRESS, SERVER_PORT,
};

/// Begins the span of a call to a database of this product (`db.system.name`): `postgresql`, `mysql`, `sqlite`, `redis`,
/// `mongodb` and so on, as the conventions' list of well-known names writes it.
pub const fn query(system: &str) -> Query<'_> {
    Query {
        system,
        operation: None,
        collection: None,
        namespace: None,
        summary: None,
        text: None,
        stored_procedure: None,
        batch_size: None,
        server: None,
        peer: None,
        scope: Scope::UNNAMED,
        tracer: None,
    }
}

/// A call to a database that is about to be made.
///
/// Its span is named by the first of these that can be made of what is known: the summary, `{operation} {target}`, the
/// operation, the target, the system. The target is the collection, the stored procedure, the namespace or the server.
#[derive(Clone, Copy, Debug)]
#[must_use = "a span is not started by its builder alone"]
pub struct Query<'a> {
    system: &'a str,
    operation: Option<&'a str>,
    collection: Option<&'a str>,
    namespace: Option<&'a str>,
    summary: Option<&'a str>,
    text: Option<&'a str>,
    stored_procedure: Option<&'a str>,
    batch_size: Option<usize>,
    server: Option<(&'a str, Option<u16>)>,
    peer: Option<(&'a str, Option<u16>)>,
    scope: &'static Scope,
    tracer: Option<Tracer>,
}

impl<'a> Query<'a> {
    /// The operation (`db.operation.name`): `SELECT`, `findAndModify`.
    pub const fn operation(mut self, operation: &'a str) -> Self {
        self.operation = Some(operation);
        self
    }

    /// The one table or collection that the operation is about (`db.collection.name`).
    pub const fn collection(mut self, collection: &'a str) -> Self {
        self.collection = Some(collection);
        self
    }

    /// The database, qualified as the product does it (`db.namespace`).
    pub const fn namespace(mut self, namespace: &'a str) -> Self {
        self.namespace = Some(namespace);
        self
    }

    /// A low-cardinality summary of the query (`db.query.summary`), such as `SELECT orders users`. It becomes the
    /// span's name.
    pub const fn summary(mut self, summary: &'a str) -> Self {
        self.summary = Some(summary);
        self
    }

    /// The query (`db.query.text`). What leaves the process is the text with every literal replaced by `?` and without
    /// its comments; placeholders (`?`, `$1`, `:id`, `@p1`) stay, so that a parametrised query arrives as it is.
    pub const fn text(mut self, text: &'a str) -> Self {
        self.text = Some(text);
        self
    }

    /// The stored procedure that is called (`db.stored_procedure.name`).
    pub const fn stored_procedure(mut self, name: &'a str) -> Self {
        self.stored_procedure = Some(name);
        self
    }

    /// How many operations the call holds (`db.operation.batch.size`). The conventions want it from 2 on only, and so
    /// it is set from 2 on.
    pub const fn batch_size(mut self, operations: usize) -> Self {
        self.batch_size = Some(operations);
        self
    }

    /// The server's name (`server.address`), and its port (`server.port`) if it is not the product's default.
    pub const fn server(mut self, address: &'a str, port: Option<u16>) -> Self {
        self.server = Some((address, port));
        self
    }

    /// The address at the other end of the connection (`network.peer.address`, `network.peer.port`).
    pub const fn peer(mut self, address: &'a str, port: Option<u16>) -> Self {
        self.peer = Some((address, port));
        self
    }

    /// The code that makes the span: see [`SpanBuilder::scope`].
    pub const fn scope(mut self, scope: &'static Scope) -> Self {
        self.scope = scope;
        self
    }

    /// The tracer of the span: see [`Tracer`]. Default: that of the current context.
    pub const fn tracer(mut self, tracer: Tracer) -> Self {
        self.tracer = Some(tracer);
        self
    }

    /// Starts the span.
    #[must_use = "a span ends when it is dropped"]
    pub fn start(self) -> Span {
        let begin = |name: &str| {
            let builder: SpanBuilder<'_> = match self.tracer {
                Some(tracer) => tracer.span(name),
                None => span(name),
            };
            builder.kind(SpanKind::Client).scope(self.scope).start()
        };
        let mut span = match (self.summary, self.operation, self.target()) {
            (Some(summary), ..) => begin(summary),
            (None, Some(operation), Some(target)) => {
                let mut name = Name::default();
                // What does not fit is left out; a name is no place for more.
                let _ = write!(name, "{operation} {target}");
                begin(name.as_str())
            }
            (None, Some(operation), None) => begin(operation),
            (None, None, Some(target)) => begin(target),
            (None, None, None) => begin(self.system),
        };
        if span.is_recording() {
            self.describe(&mut span);
        }
        span
    }

    /// Starts the span and runs a future in it: see [`Span::run`]. It starts with this call: see [`SpanBuilder::run`].
    pub fn run<F: Future>(self, future: F) -> Run<F> {
        self.start().run(future)
    }

    /// Starts the span and runs a future in it: see [`Span::try_run`]. It starts with this call: see [`SpanBuilder::run`].
    ///
    /// # Errors
    /// Those of the future.
    pub fn try_run<T, E, F>(self, future: F) -> impl Future<Output = Result<T, E>> + use<T, E, F>
    where
        F: Future<Output = Result<T, E>>,
    {
        self.start().try_run(future)
    }

    fn target(&self) -> Option<&'a str> {
        self.collection
            .or(self.stored_procedure)
            .or(self.namespace)
            .or(self.server.map(|(address, _)| address))
    }

    fn describe(&self, span: &mut Span) {
        span.set_attribute(DB_SYSTEM_NAME, self.system);
        let texts = [
            (DB_OPERATION_NAME, self.operation),
            (DB_COLLECTION_NAME, self.collection),
            (DB_NAMESPACE, self.namespace),
            (DB_QUERY_SUMMARY, self.summary),
            (DB_STORED_PROCEDURE_NAME, self.stored_procedure),
        ];
        for (key, text) in texts {
            if let Some(text) = text {
                span.set_attribute(key, text);
            }
        }
        if let Some(text) = self.text {
            let quotes_are_literals = matches!(self.system, "mysql" | "mariadb");
            span.set_attribute(DB_QUERY_TEXT, display(&Sanitized { text, quotes_are_literals }));
        }
        if let Some(operations) = self.batch_size.filter(|operations| *operations > 1) {
            span.set_attribute(DB_OPERATION_BATCH_SIZE, operations);
        }
        let ends = [
            (SERVER_ADDRESS, SERVER_PORT, self.server),
            (NETWORK_PEER_ADDRESS, NETWORK_PEER_PORT, self.peer),
        ];
        for (address_key, port_key, end) in ends {
            if let Some((address, port)) = end {
                span.set_attribute(address_key, address);
                if let Some(port) = port {
                    span.set_attribute(port_key, port);
                }
            }
        }
    }
}

/// Says that the database answered with an error of this code: `db.response.status_code` and `error.type` become the
/// code, and the status `Error`.
///
/// ```
/// # use trace_core::{Context, db};
/// # fn sqlstate() -> Option<&'static str> { Some("23505") }
/// if let Some(code) = sqlstate() {
///     db::record_error_code(&Context::current().span(), code);
/// }
/// ```
pub fn record_error_code(span: &SpanRef<'_>, code: &str) {
    span.set_attribute(DB_RESPONSE_STATUS_CODE, code);
    span.set_error(code);
}

/// A query's text without its literals.
struct Sanitized<'a> {
    text: &'a str,
    /// Whether text in double quotes is a literal, as in MySQL, or a name, as everywhere else.
    quotes_are_literals: bool,
}

impl fmt::Display for Sanitized<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.text;
        let bytes = text.as_bytes();
        // What is kept is written in runs: from `kept` to the byte that is looked at.
        let (mut at, mut kept) = (0, 0);
        while let Some(&byte) = bytes.get(at) {
            let literal_end = match byte {
                b'\'' => {
                    Some(quoted_end(bytes, at, self.quotes_are_literals || is_escape_prefixed(bytes, at)))
                }
                b'"' if self.quotes_are_literals => Some(quoted_end(bytes, at, true)),
                b'"' | b'`' => {
                    at = quoted_end(bytes, at, false);
                    continue;
                }
                b'$' => dollar_quoted_end(text, at),
                b'0'..=b'9' => Some(number_end(bytes, at)),
                b'-' if bytes[at..].starts_with(b"--") => {
                    f.write_str(&text[kept..at])?;
                    at = line_end(bytes, at);
                    kept = at;
                    continue;
                }
                b'/' if bytes[at..].starts_with(b"/*") => {
                    f.write_str(&text[kept..at])?;
                    at = comment_end(bytes, at);
                    kept = at;
                    continue;
                }
                _ => None,
            };
            match literal_end {
                Some(end) => {
                    f.write_str(&text[kept..at])?;
                    f.write_str("?")?;
                    (at, kept) = (end, end);
                }
                // A name or a placeholder runs to its end, so that its digits are not taken for a number.
                None if is_word(byte) || matches!(byte, b'$' | b':' | b'@' | b'?' | b'#') => {
                    at += 1 + bytes[at + 1..].iter().take_while(|byte| is_word(**byte)).count();
                }
                None => at += 1,
            }
        }
        f.write_str(&text[kept..])
    }
}

/// A part of a name. Bytes above ASCII belong to letters.
fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0x80
}

/// The end of what is quoted by the byte at `start`; a doubled quote does not end it, nor, where they escape, one
/// after a backslash. What is never closed ends with the text.
fn quoted_end(bytes: &[u8], start: usize, backslash_escapes: bool) -> usize {
    let quote = bytes[start];
    let mut at = start + 1;
    while let Some(&byte) = bytes.get(at) {
        at += match byte {
            b'\\' if backslash_escapes => 2,
            _ if byte == quote && bytes.get(at + 1) == Some(&quote) => 2,
            _ if byte == quote => return at + 1,
            _ => 1,
        };
    }
    bytes.len()
}

/// Whether a quote is that of PostgreSQL's `E'…'`, in which a backslash escapes.
fn is_escape_prefixed(bytes: &[u8], quote: usize) -> bool {
    let before = |n| quote.checked_sub(n).and_then(|at: usize| bytes.get(at)).copied();
    matches!(before(1), Some(b'e' | b'E')) && !before(2).is_some_and(is_word)
}

/// PostgreSQL's `$tag$ … $tag$`; `None` for a placeholder such as `$1`.
fn dollar_quoted_end(text: &str, start: usize) -> Option<usize> {
    let bytes = text.as_bytes();
    let tag = bytes[start + 1..].iter().take_while(|byte| is_word(**byte)).count();
    let open = start + 1 + tag;
    if bytes.get(open) != Some(&b'$') || bytes[start + 1].is_ascii_digit() {
        return None;
    }
    let tag = &text[start..=open];
    Some(text[open + 1..].find(tag).map_or(bytes.len(), |close| open + 1 + close + tag.len()))
}

/// The end of a number: digits, a fraction, an exponent, a hexadecimal number.
fn number_end(bytes: &[u8], start: usize) -> usize {
    let mut at = start;
    while let Some(&byte) = bytes.get(at) {
        let signed_exponent = matches!(byte, b'+' | b'-') && matches!(bytes[at - 1], b'e' | b'E');
        if !(is_word(byte) || byte == b'.' || (at > start && signed_exponent)) {
            break;
        }
        at += 1;
    }
    at
}

fn line_end(bytes: &[u8], start: usize) -> usize {
    bytes[start..].iter().position(|byte| *byte == b'\n').map_or(bytes.len(), |end| start + end)
}

fn comment_end(bytes: &[u8], start: usize) -> usize {
    bytes[start + 2..]
        .windows(2)
        .position(|pair| pair == b"*/")
        .map_or(bytes.len(), |end| start + 2 + end + 2)
}

/// A span's name, made on the stack.
#[derive(Default)]
struct Name {
    bytes: NameBytes,
    len: usize,
}

/// Longer than any operation and table together; what is beyond is cut.
const NAME_BYTES: usize = 192;

struct NameBytes([u8; NAME_BYTES]);

impl Default for NameBytes {
    fn default() -> Self {
        Self([0; NAME_BYTES])
    }
}

impl Name {
    fn as_str(&self) -> &str {
        // Only whole characters are ever written.
        std::str::from_utf8(&self.bytes.0[..self.len]).unwrap_or_default()
    }
}

impl Write for Name {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let text = cut_bytes(text, NAME_BYTES - self.len);
        self.bytes.0[self.len..self.len + text.len()].copy_from_slice(text.as_bytes());
        self.len += text.len();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sanitized(text: &str) -> String {
        Sanitized { text, quotes_are_literals: false }.to_string()
    }

    #[test]
    fn literals_become_question_marks() {
        for (text, expected) in [
            ("SELECT * FROM t WHERE a = 'secret'", "SELECT * FROM t WHERE a = ?"),
            ("a = 'it''s' AND b = 1", "a = ? AND b = ?"),
            ("IN (1, 2.5, 1e-9, 0xFF, -3)", "IN (?, ?, ?, ?, -?)"),
            ("never closed 'secret", "never closed ?"),
            ("$$secret$$ $x$se$cret$x$", "? ?"),
            ("E'a' || N'b' || X'00'", "E? || N? || X?"),
            ("'größer' > ü1", "? > ü1"),
            (r"E'it\'s secret' = name", "E? = name"),
            ("a='x'--secret\n,b", "a=?\n,b"),
            ("/* secret */ SELECT /* open secret", " SELECT "),
        ] {
            assert_eq!(sanitized(text), expected);
        }
    }

    #[test]
    fn a_parametrised_query_stays_as_it_is() {
        for text in [
            "SELECT id, total FROM orders WHERE id = ? AND name = $1 AND x = :id2 AND y = @p3 AND z = ?4",
            "INSERT INTO t1 (c1, \"column 2\", `c'3`) VALUES ($1, $2)",
            "SELECT a::int8 FROM größe2",
        ] {
            assert_eq!(sanitized(text), text);
        }
    }

    #[test]
    fn double_quotes_hold_names_except_in_mysql() {
        let text = "SELECT \"a\\\"b\" FROM t";
        let mysql = Sanitized { text, quotes_are_literals: true }.to_string();
        assert_eq!(mysql, "SELECT ? FROM t");
        assert_eq!(sanitized("SELECT \"a1\" FROM t"), "SELECT \"a1\" FROM t");
    }

    proptest! {
        #[test]
        fn no_quoted_literal_ever_gets_out(
            before in "[a-z =,(]{0,20}", secret in "SECRET[a-zA-Z0-9 ]{0,20}", after in "[a-z =,)]{0,20}"
        ) {
            let text = format!("{before}'{secret}'{after}");
            prop_assert!(!sanitized(&text).contains("SECRET"), "{}", sanitized(&text));
        }

        #[test]
        fn any_text_can_be_sanitized(text in ".{0,200}", quotes_are_literals: bool) {
            let sanitized = Sanitized { text: &text, quotes_are_literals }.to_string();
            prop_assert!(sanitized.len() <= text.len());
        }
    }
}
