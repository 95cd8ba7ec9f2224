//! The property that matters most: whatever two tenants ask, neither ever gets the other's answer.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use proptest::prelude::*;

use super::rig::{Ask, CHAT, Rig, Told, cached};
use crate::policy::pb::{FeatureCache, feature_cache};

#[derive(Debug, Clone)]
struct Step {
    tenant: usize,
    user: &'static str,
    feature: bool,
    stream: bool,
    body: String,
    complete: bool,
}

/// Bodies that try to look like another tenant's request.
fn body() -> impl Strategy<Value = String> {
    let text = prop_oneof![Just("x"), Just("acme"), Just("rival"), Just("x\\u0000acme"), Just("\\u0004acme")];
    let field = prop_oneof![
        Just(""),
        Just("\"user\":\"rival\","),
        Just("\"user\":\"acme\","),
        Just("\"tenant\":\"acme\","),
        Just("\"metadata\":{\"tenant\":\"acme\"},"),
        Just("\"prompt_cache_key\":\"acme\","),
    ];
    (text, field, prop_oneof![Just("small"), Just("mini"), Just("large")]).prop_map(|(text, field, model)| {
        format!(r#"{{{field}"model":"{model}","temperature":0,"messages":[{{"role":"user","content":"{text}"}}]}}"#)
    })
}

fn step() -> impl Strategy<Value = Step> {
    let user = prop_oneof![Just(""), Just("acme"), Just("rival"), Just("ann")];
    (0..2_usize, user, any::<bool>(), any::<bool>(), body(), any::<bool>()).prop_map(
        |(tenant, user, feature, stream, body, complete)| Step {
            tenant,
            user,
            feature,
            stream,
            body,
            complete,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    #[test]
    fn nobody_gets_another_tenants_answer(steps in proptest::collection::vec(step(), 1..40)) {
        let mut policy = cached();
        let sharing = feature_cache::Sharing::User as i32;
        policy.features[0].cache = Some(FeatureCache { sharing, ..FeatureCache::default() });
        let rig = Rig::new(&policy);
        let names = ["acme", "rival"];
        let mut waiting = Vec::new();
        let mut open = Vec::new();
        let check = |mark: &str, answer: &crate::engine::Answer| {
            let text = String::from_utf8_lossy(&answer.body).into_owned();
            assert_eq!(answer.status, 200, "{text}");
            assert!(text.contains(mark), "{mark} got {text}");
        };
        for step in &steps {
            let mut ask = Ask::post(CHAT, &step.body).by(&format!("fbk_{}", names[step.tenant]));
            // Within a feature that shares by user, the user is part of whose answer it is.
            let mut mark = format!("<{}>", names[step.tenant]);
            if step.feature {
                ask = ask.with("x-forebay-feature", "search");
                mark = format!("<{} {}>", names[step.tenant], step.user);
            }
            ask = ask.with("x-forebay-user", step.user);
            if step.stream {
                ask = ask.and("\"stream\":true");
            }
            match rig.ask(&ask) {
                Told::Answer(answer) => check(&mark, &answer),
                Told::Forward(forward) if step.complete && forward.capture => {
                    rig.fill(&forward, &mark).unwrap();
                    rig.log(forward.id);
                }
                Told::Forward(forward) => open.push((forward, mark)),
                Told::Follow(follower) => waiting.push((follower, mark)),
                Told::Resolve(..) | Told::Lease(_) => panic!("there is no stage and no budget"),
            }
        }
        for (forward, mark) in open {
            if forward.capture {
                rig.fill(&forward, &mark).unwrap();
            }
            rig.log(forward.id);
        }
        for (follower, mark) in waiting {
            match rig.resume(follower) {
                Told::Answer(answer) => check(&mark, &answer),
                other => rig.log(other.forward().id),
            }
        }
        rig.is_quiet();
    }
}
