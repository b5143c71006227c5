//! Microseconds to read and write a description of fifty sections: cold, and with one section changed.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark")]

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use mediacore_sdp::{Cache, Description, Section, SectionFields};

const SECTIONS: usize = 50;
const ROUNDS: u32 = 500;

fn main() {
    let sample = include_str!("../tests/data/dual_subscriber_offer.sdp");
    let read = Cache::new().parse(sample).unwrap();
    let video = &read.sections[2];
    let section = |mid: usize| {
        let fields = SectionFields {
            mid: mid.to_string(),
            ..SectionFields::clone(video)
        };
        Arc::new(Section::new(fields).unwrap())
    };
    let mut description = Description::new(1, 1, (0..SECTIONS).map(section).collect());
    let text = description.render();
    println!("{SECTIONS} video sections, {} bytes", text.len());

    let began = Instant::now();
    for _ in 0..ROUNDS {
        black_box(Cache::new().parse(black_box(&text)).unwrap());
    }
    println!(
        "parse, cold:        {:7.1} us",
        began.elapsed().as_secs_f64() * 1e6 / f64::from(ROUNDS)
    );

    let changed = text.replacen("a=sendrecv", "a=inactive", 1);
    let mut cache = Cache::new();
    let began = Instant::now();
    for round in 0..ROUNDS {
        let text = if round % 2 == 0 { &text } else { &changed };
        black_box(cache.parse(black_box(text)).unwrap());
    }
    println!(
        "parse, one changed: {:7.1} us",
        began.elapsed().as_secs_f64() * 1e6 / f64::from(ROUNDS)
    );

    let mut cold = std::time::Duration::ZERO;
    for _ in 0..ROUNDS {
        description.sections = (0..SECTIONS).map(section).collect();
        let began = Instant::now();
        black_box(description.render());
        cold += began.elapsed();
    }
    println!(
        "render, cold:        {:7.1} us",
        cold.as_secs_f64() * 1e6 / f64::from(ROUNDS)
    );

    let mut warm = std::time::Duration::ZERO;
    for _ in 0..ROUNDS {
        description.sections[7] = section(7);
        let began = Instant::now();
        black_box(description.render());
        warm += began.elapsed();
    }
    println!(
        "render, one changed: {:7.1} us",
        warm.as_secs_f64() * 1e6 / f64::from(ROUNDS)
    );
}
