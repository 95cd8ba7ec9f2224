//! Owns: the calls beside `ModelInfer`, forwarded by permission and answered under the client's names.
//! Must not know: tensors.
//! On failure: the test fails; every wait has a bound.

use forebay_serve::kserve::Failure;
use forebay_serve::kserve::pb::{
    ModelConfig, ModelConfigResponse, ModelMetadataResponse, ModelReadyRequest, ModelReadyResponse,
    ModelStatistics, ModelStatisticsResponse, RepositoryIndexRequest, RepositoryIndexResponse,
    ServerLiveRequest, ServerLiveResponse, repository_index_response,
};
use prost::Message;
use tonic::Code;

use super::rig::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_calls_are_forwarded_by_permission() {
    let bench = Bench::start().await;
    let thread = sender(&bench.queue, |queue, work| {
        let answer = match work.method {
            "ServerLive" => ServerLiveResponse { live: true }.encode_to_vec(),
            "ModelReady" => {
                let asked = ModelReadyRequest::decode(work.request).unwrap();
                ModelReadyResponse { ready: asked.name == "echo" && asked.version == "3" }.encode_to_vec()
            }
            "RepositoryIndex" => {
                let model = |name: &str| repository_index_response::ModelIndex {
                    name: name.to_owned(),
                    state: "READY".to_owned(),
                    ..Default::default()
                };
                RepositoryIndexResponse { models: vec![model("echo"), model("secret")] }.encode_to_vec()
            }
            _ => {
                queue.fail(work.id, &Failure::upstream(Code::NotFound, "gone".to_owned()));
                return;
            }
        };
        queue.complete(work.id, answer.into());
    });
    let mut client = bench.client().await;
    let live: ServerLiveResponse = client.call("ServerLive", marked(ServerLiveRequest {})).await.unwrap();
    assert!(live.live);
    let named = |name: &str| marked(ModelReadyRequest { name: name.to_owned(), version: "3".to_owned() });
    let ready: ModelReadyResponse = client.call("ModelReady", named("alias")).await.unwrap();
    assert!(ready.ready);
    let refused = client.call::<_, ModelReadyResponse>("ModelReady", named("secret")).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    let index = client.call("RepositoryIndex", marked(RepositoryIndexRequest::default())).await;
    let index: RepositoryIndexResponse = index.unwrap();
    assert_eq!(index.models.iter().map(|model| model.name.as_str()).collect::<Vec<_>>(), ["echo"]);
    let gone = client.call::<_, ModelConfigResponse>("ModelConfig", named("echo")).await.unwrap_err();
    assert_eq!((gone.code(), gone.message()), (Code::NotFound, "gone"));
    bench.queue.close();
    thread.join().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn models_are_told_under_the_clients_name() {
    let bench = Bench::start().await;
    let thread = sender(&bench.queue, |queue, work| {
        let answer = match work.method {
            "ModelMetadata" => {
                let versions = vec!["3".to_owned()];
                ModelMetadataResponse { name: "echo".to_owned(), versions, ..Default::default() }
                    .encode_to_vec()
            }
            "ModelStatistics" => {
                let model =
                    ModelStatistics { name: "echo".to_owned(), inference_count: 5, ..Default::default() };
                ModelStatisticsResponse { model_stats: vec![model.clone(), model] }.encode_to_vec()
            }
            _ => {
                let config = ModelConfig { name: "echo".to_owned(), max_batch_size: 8, ..Default::default() };
                ModelConfigResponse { config: Some(config) }.encode_to_vec()
            }
        };
        queue.complete(work.id, answer.into());
    });
    let mut client = bench.client().await;
    let named = || marked(ModelReadyRequest { name: "alias".to_owned(), version: String::new() });
    let metadata: ModelMetadataResponse = client.call("ModelMetadata", named()).await.unwrap();
    assert_eq!((metadata.name.as_str(), metadata.versions.len()), ("alias", 1));
    let stats: ModelStatisticsResponse = client.call("ModelStatistics", named()).await.unwrap();
    assert!(stats.model_stats.iter().all(|model| model.name == "alias" && model.inference_count == 5));
    assert_eq!(stats.model_stats.len(), 2);
    let config: ModelConfigResponse = client.call("ModelConfig", named()).await.unwrap();
    let config = config.config.unwrap();
    assert_eq!((config.name.as_str(), config.max_batch_size), ("alias", 8));
    bench.queue.close();
    thread.join().unwrap();
}
