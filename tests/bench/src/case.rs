//! Case: one thing to measure; and what comes out of it.
//!
//! Values only. A case travels to other processes as JSON.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::calls::Call;
use crate::limits;

/// Which way a stream goes, seen from the near end (the guest, where there is one).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Direction {
    /// From the near end.
    Out,
    /// To the near end.
    In,
}

/// One thing to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Case {
    /// One stream.
    Stream { direction: Direction, message: u32, bytes: u64 },
    /// One byte there and back.
    RoundTrips { count: u64 },
    /// Connect, a byte each way, close.
    Connects { count: u64, parallel: u32 },
    /// A name's address, by a fresh datagram socket each time, as C libraries ask.
    Lookups { count: u64 },
    /// One call of the program.
    Calls { call: Call, count: u64 },
}

impl Case {
    /// Streams both ways with all message sizes.
    pub(crate) fn streams(shrink: u64) -> Vec<Self> {
        let both = [Direction::Out, Direction::In];
        let sizes = |direction| {
            limits::STREAM_BYTES.map(|(message, bytes)| Self::Stream {
                direction,
                message,
                bytes: bytes / shrink,
            })
        };
        both.into_iter().flat_map(sizes).collect()
    }

    /// The cases about time.
    pub(crate) fn moments(shrink: u64) -> Vec<Self> {
        let count = limits::CONNECTS / shrink;
        vec![
            Self::RoundTrips { count: limits::ROUND_TRIPS / shrink },
            Self::Connects { count, parallel: 1 },
            Self::Connects { count, parallel: limits::CONNECTS_PARALLEL },
        ]
    }

    /// What it gives.
    pub(crate) fn metrics(self) -> &'static [Metric] {
        match self {
            Self::Stream { .. } => &[Metric::Rate, Metric::GatewayCpu],
            Self::RoundTrips { .. } | Self::Lookups { .. } | Self::Calls { .. } => {
                &[Metric::Median, Metric::Percentile99]
            }
            Self::Connects { .. } => &[Metric::Connects],
        }
    }
}

impl fmt::Display for Case {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Stream { direction, message, .. } => {
                let way = match direction {
                    Direction::Out => "from the guest",
                    Direction::In => "to the guest",
                };
                match message {
                    ..1024 => write!(formatter, "{way}, {message} B messages"),
                    1024.. => write!(formatter, "{way}, {} KiB messages", message / 1024),
                }
            }
            Self::Lookups { .. } => formatter.write_str("address of a name, with a fresh socket"),
            Self::Calls { call, .. } => formatter.write_str(call.name()),
            Self::RoundTrips { .. } => formatter.write_str("1-byte round trip"),
            Self::Connects { parallel, .. } => {
                write!(formatter, "connect + 1 byte + close, {parallel} at a time")
            }
        }
    }
}

/// What a number means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Metric {
    /// Bytes per second.
    Rate,
    /// Seconds of the gateway's (a peer's) processor time per gigabyte.
    GatewayCpu,
    /// Of the near end's: the virtual guest's driver thread, or the client.
    NearCpu,
    /// Of the far end's.
    FarCpu,
    /// Seconds of half of the round trips, at most.
    Median,
    /// Seconds of 99 in 100.
    Percentile99,
    /// Connections per second.
    Connects,
}

impl Metric {
    /// The number with its unit.
    pub(crate) fn show(self, value: f64) -> String {
        match self {
            // Three digits, whatever the size.
            Self::Rate if value < 1e8 => format!("{:.1} MB/s", value / 1e6),
            Self::Rate => format!("{:.2} GB/s", value / 1e9),
            Self::GatewayCpu | Self::NearCpu | Self::FarCpu => format!("{value:.2} s/GB"),
            Self::Median | Self::Percentile99 => format!("{:.1} us", value * 1e6),
            Self::Connects => format!("{value:.0} /s"),
        }
    }

    /// Added to a case's name.
    pub(crate) fn suffix(self) -> &'static str {
        match self {
            Self::Rate | Self::Connects => "",
            Self::GatewayCpu => ", processor time of the gateway",
            Self::NearCpu => ", processor time of the guest",
            Self::FarCpu => ", processor time of the server",
            Self::Median => ", p50",
            Self::Percentile99 => ", p99",
        }
    }
}

/// One measurement's numbers.
pub(crate) type Samples = Vec<(Metric, f64)>;

/// The samples of a stream.
pub(crate) fn stream_samples(bytes: u64, elapsed: Duration) -> Samples {
    vec![(Metric::Rate, real(bytes) / elapsed.as_secs_f64().max(1e-9))]
}

/// The samples of round trips.
pub(crate) fn round_trip_samples(mut trips: Vec<Duration>) -> Samples {
    trips.sort_unstable();
    let at = |percent: usize| {
        let index = (trips.len() * percent / 100).min(trips.len().saturating_sub(1));
        trips.get(index).map_or(f64::NAN, Duration::as_secs_f64)
    };
    vec![(Metric::Median, at(50)), (Metric::Percentile99, at(99))]
}

/// The samples of connections.
pub(crate) fn connect_samples(count: u64, elapsed: Duration) -> Samples {
    vec![(Metric::Connects, real(count) / elapsed.as_secs_f64().max(1e-9))]
}

/// A count as a number to calculate with.
#[expect(clippy::cast_precision_loss, reason = "no count here comes near 52 bits")]
pub(crate) fn real(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_those_of_the_sorted() {
        let trips = (1..=100).rev().map(Duration::from_secs).collect();
        let samples = round_trip_samples(trips);
        assert_eq!(samples, [(Metric::Median, 51.0), (Metric::Percentile99, 100.0)]);
    }

    #[test]
    fn cases_travel_as_json() {
        for case in Case::streams(1).into_iter().chain(Case::moments(8)) {
            let text = serde_json::to_string(&case).unwrap();
            assert_eq!(serde_json::from_str::<Case>(&text).unwrap(), case);
        }
    }
}
