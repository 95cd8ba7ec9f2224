//! What the assembler must reach beside the others, with a tenth of slack on figures that the seed moves.

use super::policies::{Clairvoyant, Fifo, Ours};
use super::*;

const SPAN_NS: u64 = 4000 * MS;

fn clients(arrivals: Arrivals) -> Clients {
    Clients { tenant: "all", weight: 1, priority: Priority::P1, lengths: Lengths::Mixed, arrivals }
}

/// Ours, first come first served, and the clairvoyant one, on the same arrivals.
fn three(clients: &[Clients], server: Server) -> [Outcome; 3] {
    let instances = server.instances as usize;
    let outcomes = [
        run(&mut Ours::new(server), clients, server, SPAN_NS),
        run(&mut Fifo { instances, waiting: Vec::new(), running: 0 }, clients, server, SPAN_NS),
        run(&mut Clairvoyant { instances, waiting: Vec::new(), running: 0 }, clients, server, SPAN_NS),
    ];
    for (policy, outcome) in ["ours", "fifo", "ideal"].iter().zip(&outcomes) {
        println!("{policy:>6} {} {:?}", outcome.shown("all"), clients[0].arrivals);
    }
    outcomes
}

#[test]
fn sixty_four_clients_get_what_the_cost_allows_and_twice_the_plain_rate() {
    let closed = |pause_ns| clients(Arrivals::Closed { clients: 64, pause_ns });
    let [ours, fifo, ideal] = three(&[closed(MS)], ONE);
    assert!(ours.per_s() >= 0.97 * ideal.per_s());
    assert!(ours.per_s() >= 2.0 * fifo.per_s());
    assert!(ours.p_ms("all", 0.99) < fifo.p_ms("all", 0.99));
    // Clients that answer at once are in the ideal's next batch; ours left just before.
    let [ours, _, ideal] = three(&[closed(0)], ONE);
    assert!(ours.per_s() >= 0.86 * ideal.per_s());
}

#[test]
fn random_arrivals_are_answered_as_soon_as_the_clairvoyant_does() {
    let [_, _, ideal] = three(&[clients(Arrivals::Closed { clients: 64, pause_ns: 0 })], ONE);
    for share in [0.5, 0.8, 0.95] {
        let per_s = share * ideal.per_s();
        let [ours, fifo, ideal] = three(&[clients(Arrivals::Open { per_s })], ONE);
        assert!(ours.per_s() >= 0.99 * ideal.per_s());
        assert!(ours.p_ms("all", 0.5) <= 1.1 * ideal.p_ms("all", 0.5));
        assert!(ours.p_ms("all", 0.99) <= 1.15 * ideal.p_ms("all", 0.99));
        assert!(ours.p_ms("all", 0.99) < fifo.p_ms("all", 0.99));
    }
}

#[test]
fn one_client_waits_for_its_own_batch_alone() {
    let [ours, _, ideal] = three(&[clients(Arrivals::Closed { clients: 1, pause_ns: MS })], ONE);
    assert!(ours.per_s() >= 0.98 * ideal.per_s());
}

#[test]
fn equal_lengths_go_in_full_batches() {
    let closed = Arrivals::Closed { clients: 128, pause_ns: MS };
    let equal = Clients { lengths: Lengths::Equal(100), ..clients(closed) };
    let ours = run(&mut Ours::new(ONE), &[equal], ONE, SPAN_NS);
    assert!(ours.padding() < 1.001);
    assert!(ours.per_s() >= 0.96 * 64e9 / cost_ns(6400) as f64, "{}", ours.shown("all"));
}

#[test]
fn several_instances_share_the_work() {
    let closed = Arrivals::Closed { clients: 256, pause_ns: MS };
    for (instances, slots) in [(4, 5), (4, 8), (4, 4)] {
        let [ours, _, ideal] = three(&[clients(closed)], Server { instances, slots });
        assert!(ours.per_s() >= 0.95 * ideal.per_s(), "{instances} {slots}");
    }
}

#[test]
fn a_flood_of_the_least_urgent_leaves_the_most_urgent_fast() {
    let urgent =
        Clients { tenant: "urgent", priority: Priority::P0, ..clients(Arrivals::Open { per_s: 20.0 }) };
    let flood = Clients {
        tenant: "flood",
        priority: Priority::P2,
        ..clients(Arrivals::Closed { clients: 2000, pause_ns: 0 })
    };
    let alone = run(&mut Ours::new(ONE), &[urgent], ONE, 5 * SPAN_NS);
    let flooded = run(&mut Ours::new(ONE), &[urgent, flood], ONE, SPAN_NS);
    let batch_ms = cost_ns(flooded.longest_batch) as f64 / MS as f64;
    println!(
        "alone {}\nurgent {}\nflood {}",
        alone.shown("urgent"),
        flooded.shown("urgent"),
        flooded.shown("flood")
    );
    assert!(flooded.p_ms("urgent", 0.99) <= 2.0 * alone.p_ms("urgent", 0.99) + batch_ms);
    // What the flood loses is what the urgent ones take, and half a batch for each.
    assert!(flooded.latencies_ns["flood"].len() as f64 >= 2500.0 * 3.6);
}

#[test]
fn a_flood_of_the_most_urgent_does_not_starve_the_least() {
    let urgent = Clients {
        tenant: "urgent",
        priority: Priority::P0,
        ..clients(Arrivals::Closed { clients: 1000, pause_ns: 0 })
    };
    let least = Clients {
        tenant: "least",
        priority: Priority::P2,
        ..clients(Arrivals::Closed { clients: 64, pause_ns: 0 })
    };
    let outcome = run(&mut Ours::new(ONE), &[urgent, least], ONE, SPAN_NS);
    println!("urgent {}\nleast {}", outcome.shown("urgent"), outcome.shown("least"));
    assert!(outcome.latencies_ns["least"].len() > 100);
}

/// Padded tokens of the first of two floods beside those of the second.
fn shares(one: Clients, other: Clients) -> f64 {
    let server = ONE;
    let outcome = run(&mut Ours::new(server), &[one, other], server, SPAN_NS);
    outcome.padded_tokens[one.tenant] as f64 / outcome.padded_tokens[other.tenant] as f64
}

#[test]
fn tenants_get_padded_tokens_by_weight_however_much_and_however_long_they_send() {
    let flood = |tenant, clients_of| Clients {
        tenant,
        ..clients(Arrivals::Closed { clients: clients_of, pause_ns: 0 })
    };
    let equal = shares(flood("a", 1500), flood("b", 500));
    assert!((0.95..1.05).contains(&equal), "{equal}");
    let short = Clients { lengths: Lengths::Equal(16), ..flood("short", 1500) };
    let long = Clients { lengths: Lengths::Equal(500), ..flood("long", 500) };
    let by_length = shares(short, long);
    assert!((0.95..1.05).contains(&by_length), "{by_length}");
    let heavy = Clients { weight: 3, ..flood("heavy", 1000) };
    let by_weight = shares(heavy, flood("light", 1000));
    assert!((2.85..3.15).contains(&by_weight), "{by_weight}");
}

#[test]
fn a_hundred_tenants_get_the_same() {
    let names: Vec<&'static str> = (0..100).map(|at| &*format!("t{at}").leak()).collect();
    let flood = |(at, &tenant): (usize, &&'static str)| Clients {
        tenant,
        ..clients(Arrivals::Closed { clients: 30 + at % 7 * 10, pause_ns: 0 })
    };
    let all: Vec<Clients> = names.iter().enumerate().map(flood).collect();
    let outcome = run(&mut Ours::new(ONE), &all, ONE, 4 * SPAN_NS);
    let tokens: Vec<u64> = outcome.padded_tokens.values().copied().collect();
    let (least, most) = (tokens.iter().min().unwrap(), tokens.iter().max().unwrap());
    assert!(tokens.len() == 100 && *most as f64 <= 1.25 * *least as f64, "{least} {most}");
}
