//! Owns: which call a method and a path mean.
//! Must not know: headers, bodies.
//! On failure: closed; a path that is not listed is refused, and calls that change the server are refused by name.

use http::Method;
use prost::Message;

use super::fault::Fault;
use crate::kserve::pb::ModelMetadataRequest;

/// A model, as a path names it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Named {
    pub model: String,
    /// Empty lets the server choose
    pub version: String,
}

// === impl Named ===

impl Named {
    /// As the gRPC protocol's requests for a model are encoded: name and version are 1 and 2 in all of them.
    pub(super) fn encoded(self) -> Vec<u8> {
        ModelMetadataRequest { name: self.model, version: self.version }.encode_to_vec()
    }
}

/// A call of the protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Route {
    Live,
    Ready,
    Server,
    ModelReady(Named),
    Model(Named),
    Config(Named),
    /// An empty name: all models
    Stats(Named),
    Index,
    Infer(Named),
}

/// The call of `method` on `path`, such as `POST /v2/models/bert/versions/1/infer`.
pub(super) fn of(method: &Method, path: &str) -> Result<Route, Fault> {
    let mut segments = path.split('/').skip(1).map(|segment| decoded(segment, path));
    let segments: Vec<String> = segments.by_ref().collect::<Result<_, _>>()?;
    let names: Vec<&str> = segments.iter().map(String::as_str).collect();
    let (allowed, route) = match names.as_slice() {
        ["v2"] => (Method::GET, Route::Server),
        ["v2", "health", "live"] => (Method::GET, Route::Live),
        ["v2", "health", "ready"] => (Method::GET, Route::Ready),
        ["v2", "models", "stats"] => (Method::GET, Route::Stats(Named::default())),
        ["v2", "repository", "index"] | ["v2", "repository", _, "index"] => (Method::POST, Route::Index),
        ["v2", "models", model] => (Method::GET, Route::Model(named(model, "", path)?)),
        ["v2", "models", model, "versions", version] => {
            (Method::GET, Route::Model(named(model, version, path)?))
        }
        ["v2", "models", model, call] => of_model(call, named(model, "", path)?, path)?,
        ["v2", "models", model, "versions", version, call] => {
            of_model(call, named(model, version, path)?, path)?
        }
        ["v2", "models", _, "trace", "setting"]
        | ["v2", "trace", "setting"]
        | ["v2", "logging"]
        | ["v2", "repository", "models", _, "load" | "unload"]
        | ["v2", "repository", _, "models", _, "load" | "unload"] => return Err(Fault::control(path)),
        ["v2", "systemsharedmemory" | "cudasharedmemory", ..] => return Err(Fault::shared_memory(path)),
        _ => return Err(Fault::no_path(path)),
    };
    if *method == allowed { Ok(route) } else { Err(Fault::no_method(method, path, allowed.as_str())) }
}

fn of_model(call: &str, named: Named, path: &str) -> Result<(Method, Route), Fault> {
    Ok(match call {
        "infer" => (Method::POST, Route::Infer(named)),
        "ready" => (Method::GET, Route::ModelReady(named)),
        "config" => (Method::GET, Route::Config(named)),
        "stats" => (Method::GET, Route::Stats(named)),
        "generate" | "generate_stream" => return Err(Fault::generate(path)),
        _ => return Err(Fault::no_path(path)),
    })
}

fn named(model: &str, version: &str, path: &str) -> Result<Named, Fault> {
    if model.is_empty() {
        return Err(Fault::no_path(path));
    }
    Ok(Named { model: model.to_owned(), version: version.to_owned() })
}

/// One segment without its percent escapes.
fn decoded(segment: &str, path: &str) -> Result<String, Fault> {
    let broken = || Fault::unreadable(format!("`{path}` has a percent escape that is no UTF-8 text"));
    let mut bytes = Vec::with_capacity(segment.len());
    let mut rest = segment.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        if first == b'%' {
            let (digits, after) = after.split_at_checked(2).ok_or_else(broken)?;
            let digit = |at: usize| char::from(digits[at]).to_digit(16);
            let (high, low) = (digit(0).ok_or_else(broken)?, digit(1).ok_or_else(broken)?);
            bytes.push((high * 16 + low) as u8);
            rest = after;
        } else {
            bytes.push(first);
            rest = after;
        }
    }
    String::from_utf8(bytes).map_err(|_| broken())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use http::StatusCode;
    use proptest::prelude::*;

    use super::*;

    fn get(path: &str) -> Result<Route, u16> {
        of(&Method::GET, path).map_err(|fault| fault.status.as_u16())
    }

    fn post(path: &str) -> Result<Route, u16> {
        of(&Method::POST, path).map_err(|fault| fault.status.as_u16())
    }

    fn bert(version: &str) -> Named {
        Named { model: "bert".to_owned(), version: version.to_owned() }
    }

    #[test]
    fn paths_are_the_protocols() {
        assert_eq!(get("/v2"), Ok(Route::Server));
        assert_eq!(get("/v2/health/live"), Ok(Route::Live));
        assert_eq!(get("/v2/health/ready"), Ok(Route::Ready));
        assert_eq!(get("/v2/models/bert"), Ok(Route::Model(bert(""))));
        assert_eq!(get("/v2/models/bert/versions/3"), Ok(Route::Model(bert("3"))));
        assert_eq!(get("/v2/models/bert/versions/3/ready"), Ok(Route::ModelReady(bert("3"))));
        assert_eq!(get("/v2/models/bert/config"), Ok(Route::Config(bert(""))));
        assert_eq!(get("/v2/models/stats"), Ok(Route::Stats(Named::default())));
        assert_eq!(get("/v2/models/bert/stats"), Ok(Route::Stats(bert(""))));
        assert_eq!(post("/v2/models/bert/infer"), Ok(Route::Infer(bert(""))));
        assert_eq!(post("/v2/models/bert/versions/3/infer"), Ok(Route::Infer(bert("3"))));
        assert_eq!(post("/v2/repository/index"), Ok(Route::Index));
    }

    #[test]
    fn names_are_unescaped() {
        let spaced = Named { model: "a b/é".to_owned(), version: String::new() };
        assert_eq!(post("/v2/models/a%20b%2F%C3%a9/infer"), Ok(Route::Infer(spaced)));
        for broken in ["/v2/models/%", "/v2/models/%2", "/v2/models/%zz", "/v2/models/%ff"] {
            assert_eq!(get(broken), Err(400), "{broken}");
        }
    }

    #[test]
    fn what_is_not_offered_says_so() {
        for unknown in
            ["/v2/", "/v2/models", "/v2/models/", "/v2//infer", "/v2/models/bert/x", "/v1", "", "/v2x"]
        {
            assert_eq!(get(unknown), Err(404), "{unknown}");
        }
        assert_eq!(get("/v2/models/bert/infer"), Err(405));
        assert_eq!(post("/v2/health/live"), Err(405));
        for control in [
            "/v2/repository/models/bert/load",
            "/v2/logging",
            "/v2/trace/setting",
            "/v2/models/b/trace/setting",
        ] {
            assert_eq!(post(control), Err(403), "{control}");
        }
        assert_eq!(get("/v2/systemsharedmemory/status"), Err(501));
        assert_eq!(post("/v2/cudasharedmemory/region/x/register"), Err(501));
        assert_eq!(post("/v2/models/bert/generate_stream"), Err(501));
    }

    proptest! {
        #[test]
        fn any_path_is_a_call_or_refused(path in "/v2(/[a-z%0-9é/]{0,9}){0,5}") {
            if let Err(fault) = of(&Method::GET, &path) {
                prop_assert!(fault.status.is_client_error() || fault.status == StatusCode::NOT_IMPLEMENTED);
            }
        }
    }
}
