//! Owns: which calls of the protocol the service takes, and how each is treated.
//! Must not know: messages.
//! On failure: closed; a call that is not listed is refused.

/// How a call is treated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Treatment {
    /// Read, queued and batched
    Infer,
    /// Forwarded as it is: it concerns the server
    Server,
    /// Forwarded with the model's upstream name, if the key may use the model
    Model,
    /// Forwarded; models that the key may not use are taken out of the answer
    List,
    /// `Model` if it names one, otherwise `List`
    ModelOrList,
    /// A stream of inferences
    Stream,
    /// It would change the server or the gateway's view of it
    Control,
    /// It passes memory of the client's machine
    SharedMemory,
}

/// The service's name, the first part of every path.
pub(super) const SERVICE: &str = "inference.GRPCInferenceService";

const METHODS: [(&str, Treatment); 20] = [
    ("ModelInfer", Treatment::Infer),
    ("ModelStreamInfer", Treatment::Stream),
    ("ServerLive", Treatment::Server),
    ("ServerReady", Treatment::Server),
    ("ServerMetadata", Treatment::Server),
    ("ModelReady", Treatment::Model),
    ("ModelMetadata", Treatment::Model),
    ("ModelConfig", Treatment::Model),
    ("ModelStatistics", Treatment::ModelOrList),
    ("RepositoryIndex", Treatment::List),
    ("RepositoryModelLoad", Treatment::Control),
    ("RepositoryModelUnload", Treatment::Control),
    ("TraceSetting", Treatment::Control),
    ("LogSettings", Treatment::Control),
    ("SystemSharedMemoryStatus", Treatment::SharedMemory),
    ("SystemSharedMemoryRegister", Treatment::SharedMemory),
    ("SystemSharedMemoryUnregister", Treatment::SharedMemory),
    ("CudaSharedMemoryStatus", Treatment::SharedMemory),
    ("CudaSharedMemoryRegister", Treatment::SharedMemory),
    ("CudaSharedMemoryUnregister", Treatment::SharedMemory),
];

/// The call of a path such as `/inference.GRPCInferenceService/ModelInfer`, and its treatment.
pub(super) fn of_path(path: &str) -> Option<(&'static str, Treatment)> {
    let name = path.strip_prefix('/')?.strip_prefix(SERVICE)?.strip_prefix('/')?;
    METHODS.iter().find(|row| row.0 == name).copied()
}
