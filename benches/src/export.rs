//! What does it cost to send a span, and how many are lost on the way?

use std::io;
use std::thread;
use std::time::{Duration, Instant};

use clap::{Args, Subcommand, ValueEnum};
use opentelemetry::trace::TracerProvider as _;
use tokio::runtime::Runtime;

use crate::exporters::{self, Kind, Protocol, Wire};
use crate::harness::statistics::{least, median, quantile, undisturbed};
use crate::harness::{Bench, Collector, Effort, Goal, Running, Section, Sink, Subject, Table};
use crate::harness::{allocator, clock, memory, processors};
use crate::span;

pub(crate) const BENCH: Bench = Bench {
    name: "export",
    question: "What does it cost to send a span that has ended, from the queue to the socket, and how many are lost on the way when \
               many end at once? Roots with 10 attributes, as in `span`.",
    cases: &[],
    sections: Some(sections),
};

fn sections(effort: &Effort) -> io::Result<Vec<Section>> {
    let [beside, sender] = processors::apart().map_or([None; 2], |both| both.map(Some));
    Ok(vec![
        // A sender that may share its processor with the collector takes half as much again in some processes.
        processors::on(beside, || costs(effort, sender))?,
        losses(
            effort,
            Shape::Bursts,
            "Bursts of 5 000 spans every 100 ms",
            "Default settings, OTLP over HTTP without compression, a healthy collector on the same host.",
        )?,
        losses(
            effort,
            Shape::Steady,
            "200 000 spans a second from one thread",
            "In portions of 1 000 every 5 ms. Otherwise as above.",
        )?,
    ])
}

/// A tracer, and how it sends.
#[derive(Clone, Copy)]
struct Sender {
    name: &'static str,
    kind: Kind,
    wire: Wire,
    batch: Batch,
}

#[derive(Clone, Copy)]
enum Batch {
    /// As many spans as the defaults send at once are made, and flushed.
    ByDefault(usize),
    /// Set to this many spans.
    Set(usize),
}

const HTTP: Wire = Wire { protocol: Protocol::Http, gzip: false };
const HTTP_GZIP: Wire = Wire { protocol: Protocol::Http, gzip: true };
const GRPC: Wire = Wire { protocol: Protocol::Grpc, gzip: false };
const GRPC_GZIP: Wire = Wire { protocol: Protocol::Grpc, gzip: true };

/// Ours is bounded by bytes: 800 KiB. fastrace has no bound, and sends what a second brings: it is given as many as ours, because
/// a batch that is larger costs less for each span.
const OURS: Batch = Batch::ByDefault(2048);
const FASTRACE: Batch = Batch::ByDefault(2048);
const SDK: Batch = Batch::ByDefault(512);

const OURS_HTTP: &str = "trace-core, HTTP";
const OURS_HTTP_512: &str = "trace-core, HTTP, batches set to 512";
const OURS_GRPC: &str = "trace-core, gRPC";
const OURS_HTTP_GZIP: &str = "trace-core, HTTP, gzip";
const OURS_GRPC_GZIP: &str = "trace-core, gRPC, gzip";
const SDK_HTTP: &str = "opentelemetry-otlp, HTTP";
const SDK_HTTP_2048: &str = "opentelemetry-otlp, HTTP, batches set to 2048";
const SDK_GRPC: &str = "opentelemetry-otlp, gRPC";
const SDK_HTTP_GZIP: &str = "opentelemetry-otlp, HTTP, gzip";
const SDK_GRPC_GZIP: &str = "opentelemetry-otlp, gRPC, gzip";
const FASTRACE_HTTP: &str = "fastrace-opentelemetry, HTTP";
const FASTRACE_GRPC: &str = "fastrace-opentelemetry, gRPC";
const FASTRACE_HTTP_GZIP: &str = "fastrace-opentelemetry, HTTP, gzip";
const FASTRACE_GRPC_GZIP: &str = "fastrace-opentelemetry, gRPC, gzip";

const SENDERS: &[Sender] = &[
    Sender { name: OURS_HTTP, kind: Kind::Ours, wire: HTTP, batch: OURS },
    Sender { name: SDK_HTTP, kind: Kind::Sdk, wire: HTTP, batch: SDK },
    Sender { name: FASTRACE_HTTP, kind: Kind::Fastrace, wire: HTTP, batch: FASTRACE },
    Sender { name: OURS_HTTP_512, kind: Kind::Ours, wire: HTTP, batch: Batch::Set(512) },
    Sender { name: SDK_HTTP_2048, kind: Kind::Sdk, wire: HTTP, batch: Batch::Set(2048) },
    Sender { name: OURS_GRPC, kind: Kind::Ours, wire: GRPC, batch: OURS },
    Sender { name: SDK_GRPC, kind: Kind::Sdk, wire: GRPC, batch: SDK },
    Sender { name: FASTRACE_GRPC, kind: Kind::Fastrace, wire: GRPC, batch: FASTRACE },
    Sender { name: OURS_HTTP_GZIP, kind: Kind::Ours, wire: HTTP_GZIP, batch: OURS },
    Sender { name: SDK_HTTP_GZIP, kind: Kind::Sdk, wire: HTTP_GZIP, batch: SDK },
    Sender { name: FASTRACE_HTTP_GZIP, kind: Kind::Fastrace, wire: HTTP_GZIP, batch: FASTRACE },
    Sender { name: OURS_GRPC_GZIP, kind: Kind::Ours, wire: GRPC_GZIP, batch: OURS },
    Sender { name: SDK_GRPC_GZIP, kind: Kind::Sdk, wire: GRPC_GZIP, batch: SDK },
    Sender { name: FASTRACE_GRPC_GZIP, kind: Kind::Fastrace, wire: GRPC_GZIP, batch: FASTRACE },
];

const COMPARED: &[(&str, &str, Option<f64>)] = &[
    (OURS_HTTP, SDK_HTTP, Some(0.08)),
    (OURS_GRPC, SDK_GRPC, Some(0.15)),
    (OURS_HTTP_512, SDK_HTTP, None),
    (OURS_HTTP, SDK_HTTP_2048, None),
    (OURS_HTTP, FASTRACE_HTTP, None),
    (OURS_GRPC, FASTRACE_GRPC, None),
    (OURS_HTTP_GZIP, SDK_HTTP_GZIP, None),
    (OURS_GRPC_GZIP, SDK_GRPC_GZIP, None),
];

/// What a span cost in one repetition.
struct Sent {
    cpu_ns: f64,
    /// The making included.
    whole_ns: f64,
    allocations: f64,
    bytes: f64,
    wire_bytes: f64,
    /// The part of the spans that arrived.
    arrived: f64,
}

fn costs(effort: &Effort, processor: Option<usize>) -> io::Result<Section> {
    let http = Sink::start()?;
    let grpc = Sink::start_grpc()?;
    let senders: Vec<_> = SENDERS.iter().filter(|sender| effort.wants(sender.name)).collect();
    let mut sent: Vec<Vec<Sent>> = senders.iter().map(|_| Vec::new()).collect();
    let repetitions = if effort.is_quick() { 1 } else { effort.repetitions };
    for repetition in 0..repetitions {
        eprintln!("export, costs: {} of {repetitions}", repetition + 1);
        for (sender, sent) in senders.iter().zip(&mut sent) {
            let sink = match sender.wire.protocol {
                Protocol::Http => &http,
                Protocol::Grpc => &grpc,
            };
            sent.push(sender.measure(sink, effort, processor)?);
        }
    }
    let heading = [
        "per span",
        "spans a batch",
        "ns",
        "ns, median",
        "with the making",
        "allocations",
        "bytes",
        "bytes on the wire",
        "arrived",
    ];
    let mut rows = vec![heading.map(String::from).to_vec()];
    for (sender, sent) in senders.iter().zip(&sent) {
        let all = |of: fn(&Sent) -> f64| sent.iter().map(of).collect::<Vec<_>>();
        let cpu_ns = all(|sent| sent.cpu_ns);
        rows.push(vec![
            sender.name.to_owned(),
            sender.batch.spans().to_string(),
            format!("{:.0}", least(&cpu_ns)),
            format!("{:.0}", median(&cpu_ns)),
            format!("{:.0}", median(&all(|sent| sent.whole_ns))),
            format!("{:.2}", median(&all(|sent| sent.allocations))),
            format!("{:.0}", median(&all(|sent| sent.bytes))),
            format!("{:.0}", median(&all(|sent| sent.wire_bytes))),
            percent(least(&all(|sent| sent.arrived))),
        ]);
    }
    let mut goals = Vec::new();
    let find = |name: &str| senders.iter().position(|sender| sender.name == name).map(|place| &sent[place]);
    for (of, to, goal) in COMPARED {
        let (Some(of_sent), Some(to_sent)) = (find(of), find(to)) else { continue };
        let both: Vec<f64> = of_sent.iter().zip(to_sent).map(|(of, to)| of.cpu_ns / to.cpu_ns).collect();
        goals.push(Goal::ratio(format!("{of} ÷ {to}"), &both, *goal));
    }
    Ok(Section {
        title: "from the queue to the socket".to_owned(),
        note: "One batch after the other is made and flushed, where there are two processors on one without the collector (tokio's \
               runtime, for gRPC, has one worker then). *ns*: CPU time of the whole process, user and system, less that of the \
               thread that makes the spans while it makes them, of the batches that were disturbed least; the quietest of the \
               repetitions and their median. Ours encodes a span while it is made, and the others when they send it: *with the \
               making* is the median of the whole. Allocations are those of all threads, less those of the making. A batch is as \
               large as each one's defaults make it: ours some 800 KiB, the SDK's 512 spans; fastrace's reporter sends whatever has \
               ended in a second, and is given as many as ours. *arrived*: the least of all repetitions, as the collector counted."
            .to_owned(),
        tables: vec![Table { rows }],
        plots: Vec::new(),
        goals,
    })
}

impl Sender {
    fn measure(&self, sink: &Sink, effort: &Effort, processor: Option<usize>) -> io::Result<Sent> {
        let before = sink.tally();
        let (endpoint, spans, batches) =
            (sink.endpoint(), self.batch.spans().to_string(), effort.bursts.to_string());
        let protocol = match self.wire.protocol {
            Protocol::Http => "http",
            Protocol::Grpc => "grpc",
        };
        let processor = processor.map(|processor| format!("--processor={processor}"));
        let mut arguments =
            vec!["child-export", "send", self.kind.word(), protocol, &endpoint, &spans, &batches];
        if self.wire.gzip {
            arguments.push("--gzip");
        }
        if let Batch::Set(_) = self.batch {
            arguments.push("--set");
        }
        arguments.extend(processor.as_deref());
        let [cpu_ns, whole_ns, allocations, bytes, made] = Running::start(arguments)?.numbers()?;
        let tally = sink.tally() - before;
        Ok(Sent {
            cpu_ns,
            whole_ns,
            allocations,
            bytes,
            wire_bytes: tally.bytes as f64 / tally.spans as f64,
            arrived: tally.spans as f64 / made,
        })
    }
}

impl Batch {
    fn spans(self) -> usize {
        match self {
            Self::ByDefault(spans) | Self::Set(spans) => spans,
        }
    }
}

/// How spans come when many are lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Shape {
    Bursts,
    Steady,
}

impl Shape {
    /// How many spans are made at once, and how often.
    const fn portions(self) -> (usize, Duration) {
        match self {
            Self::Bursts => (5000, Duration::from_millis(100)),
            Self::Steady => (1000, Duration::from_millis(5)),
        }
    }

    const fn word(self) -> &'static str {
        match self {
            Self::Bursts => "bursts",
            Self::Steady => "steady",
        }
    }
}

struct Lost {
    made: f64,
    /// The part of the spans that the collector did not have when all was flushed.
    not_flushed: f64,
    /// And the part of them that never came.
    lost: f64,
    grown_mib: f64,
}

fn losses(effort: &Effort, shape: Shape, title: &str, note: &str) -> io::Result<Section> {
    let (repetitions, seconds) = if effort.is_quick() { (1, 1) } else { (3, 3) };
    let kinds: Vec<_> = Kind::ALL.into_iter().filter(|kind| effort.wants(kind.name())).collect();
    let mut lost: Vec<Vec<Lost>> = kinds.iter().map(|_| Vec::new()).collect();
    for repetition in 0..repetitions {
        eprintln!("export, {}: {} of {repetitions}", shape.word(), repetition + 1);
        for (kind, lost) in kinds.iter().zip(&mut lost) {
            lost.push(lose(*kind, shape, seconds)?);
        }
    }
    let heading = ["", "spans made", "not flushed", "lost", "lost, quartiles", "memory grown by, MiB"];
    let mut rows = vec![heading.map(String::from).to_vec()];
    let mut goals = Vec::new();
    for (kind, lost) in kinds.iter().zip(&lost) {
        let all = |of: fn(&Lost) -> f64| lost.iter().map(of).collect::<Vec<_>>();
        let part = all(|lost| lost.lost);
        rows.push(vec![
            kind.name().to_owned(),
            format!("{:.0}", median(&all(|lost| lost.made))),
            percent(median(&all(|lost| lost.not_flushed))),
            percent(median(&part)),
            format!("{} – {}", percent(quantile(&part, 0.25)), percent(quantile(&part, 0.75))),
            format!("{:.1}", median(&all(|lost| lost.grown_mib))),
        ]);
        if *kind == Kind::Ours {
            goals.push(Goal::ratio("trace-core, spans lost ÷ spans made", &part, Some(0.0)));
        }
    }
    let note = format!(
        "{note} For {seconds} s; then all is flushed, and *not flushed* is what the collector did not have after that. Then the thread \
         goes on with a span at a time, flushed as well, until no more of the others come: *lost* is what never came. Memory: the \
         most that was resident, less what was before."
    );
    Ok(Section { title: title.to_owned(), note, tables: vec![Table { rows }], plots: Vec::new(), goals })
}

/// How many single spans in a row bring nothing but themselves before the rest counts as lost.
const VAIN: usize = 3;

fn lose(kind: Kind, shape: Shape, seconds: u32) -> io::Result<Lost> {
    // One for each, because a process may end while its last request is on its way.
    let sink = Sink::start()?;
    let endpoint = sink.endpoint();
    let seconds = seconds.to_string();
    let arguments = ["child-export", "lose", kind.word(), shape.word(), &endpoint, &seconds];
    let mut process = Running::start(arguments)?;
    let [made, grown_bytes] = process.numbers()?;
    let missing = |made: f64| made - sink.tally().spans as f64;
    let not_flushed = missing(made);
    let (mut all, mut lost, mut vain) = (made, not_flushed, 0);
    while lost > 0.0 && vain < VAIN {
        process.ask("more")?;
        all += 1.0;
        let now = missing(all);
        vain = if now < lost { 0 } else { vain + 1 };
        lost = now;
    }
    Ok(Lost { made, not_flushed: not_flushed / made, lost: lost / made, grown_mib: grown_bytes / MIB })
}

const MIB: f64 = (1 << 20) as f64;

fn percent(part: f64) -> String {
    // What rounds to all or nothing, and is not, does not say that it is.
    let digits = if part != part.round() { 2 } else { 0 };
    format!("{:.digits$} %", part * 100.0)
}

/// What a process of this bench is started for.
#[derive(Debug, Subcommand)]
pub(crate) enum Part {
    Send(Send),
    Lose(Lose),
}

#[derive(Debug, Args)]
pub(crate) struct Send {
    kind: Kind,
    protocol: Protocol,
    endpoint: String,
    spans: usize,
    batches: usize,
    #[arg(long)]
    gzip: bool,
    /// Whether the batch's size is set to that many spans.
    #[arg(long)]
    set: bool,
    /// The only one that it may use.
    #[arg(long)]
    processor: Option<usize>,
}

#[derive(Debug, Args)]
pub(crate) struct Lose {
    kind: Kind,
    shape: Shape,
    endpoint: String,
    seconds: u32,
}

/// Does the part of a child process, and prints what it found.
pub(crate) fn work(part: &Part) -> io::Result<()> {
    match part {
        Part::Send(send) => send.work(),
        Part::Lose(lose) => {
            lose.work();
            Ok(())
        }
    }
}

/// How long a sender works before it is measured: a batch's first memory, the connection.
const WARM_UP: Duration = Duration::from_millis(150);

/// How many batches allocations are counted of.
const COUNTED: usize = 8;

impl Send {
    fn work(&self) -> io::Result<()> {
        if let Some(processor) = self.processor {
            processors::pin(processor)?;
        }
        // gRPC needs one, as `#[tokio::main]` makes it.
        let runtime = match self.protocol {
            Protocol::Http => None,
            Protocol::Grpc => Some(Runtime::new()?),
        };
        let _entered = runtime.as_ref().map(Runtime::enter);
        let wire = Wire { protocol: self.protocol, gzip: self.gzip };
        let subject = subject(
            self.kind,
            &Collector { endpoint: self.endpoint.clone() },
            wire,
            self.set.then_some(self.spans),
        );
        let mut made = 0;
        let start = Instant::now();
        while start.elapsed() < WARM_UP {
            subject.work(self.spans);
            subject.drain();
            made += self.spans;
        }
        let mut cpu_ns = Vec::with_capacity(self.batches);
        let mut whole_ns = Vec::with_capacity(self.batches);
        for _ in 0..self.batches {
            let (process, thread) = (clock::process_ns(), clock::thread_ns());
            subject.work(self.spans);
            let making = clock::thread_ns() - thread;
            subject.drain();
            let all = clock::process_ns() - process;
            cpu_ns.push(all.saturating_sub(making) as f64 / self.spans as f64);
            whole_ns.push(all as f64 / self.spans as f64);
            made += self.spans;
        }
        let (mut allocations, mut bytes) = (0, 0);
        for _ in 0..COUNTED {
            let counted = allocator::count_sending(|| subject.work(self.spans), || subject.drain());
            allocations += counted.number;
            bytes += counted.bytes;
            made += self.spans;
        }
        let counted = (COUNTED * self.spans) as f64;
        let (cpu_ns, whole_ns) = (undisturbed(&cpu_ns), undisturbed(&whole_ns));
        let (allocations, bytes) = (allocations as f64 / counted, bytes as f64 / counted);
        println!("{cpu_ns} {whole_ns} {allocations} {bytes} {made}");
        Ok(())
    }
}

impl Lose {
    fn work(&self) {
        let subject = subject(self.kind, &Collector { endpoint: self.endpoint.clone() }, HTTP, None);
        // Whatever is set up by a first span is not what is asked about.
        subject.work(1);
        subject.drain();
        let resident = memory::resident_bytes(std::process::id());
        let (spans, period) = self.shape.portions();
        let end = Duration::from_secs(self.seconds.into());
        let (mut made, mut due) = (1, Duration::ZERO);
        let start = Instant::now();
        while due < end {
            thread::sleep(due.saturating_sub(start.elapsed()));
            subject.work(spans);
            made += spans;
            due += period;
        }
        subject.drain();
        println!("{made} {}", memory::peak_bytes().saturating_sub(resident));
        for _ in io::stdin().lines() {
            subject.work(1);
            subject.drain();
            println!("done");
        }
    }
}

/// A root for each unit of work.
fn subject(kind: Kind, collector: &Collector, wire: Wire, batch_spans: Option<usize>) -> Subject {
    match kind {
        Kind::Ours => {
            let tracer = exporters::ours_by(collector, wire, batch_spans);
            Subject::new(move || drop(span::start_ours(tracer, span::request())))
                .drained_by(move || exporters::drain_ours(tracer))
        }
        Kind::Sdk => {
            let provider = exporters::sdk_by(collector, wire, batch_spans);
            let tracer = provider.tracer("benches");
            Subject::new(move || drop(span::start_sdk(&tracer, span::request())))
                .drained_by(move || exporters::drain_sdk(&provider))
        }
        Kind::Fastrace => {
            exporters::fastrace_by(collector, wire);
            Subject::new(|| drop(span::start_fastrace(true, span::request()))).drained_by(fastrace::flush)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_part_is_not_none() {
        assert_eq!([percent(0.0), percent(1.0)], ["0 %", "100 %"]);
        assert_eq!([percent(0.0001), percent(0.99999)], ["0.01 %", "100.00 %"]);
    }

    #[test]
    fn what_is_compared_is_measured() {
        let known = |name: &str| SENDERS.iter().any(|sender| sender.name == name);
        assert!(COMPARED.iter().all(|(of, to, _)| known(of) && known(to)));
    }
}
