//! The engine as a whole: every test decides real requests under a real policy, with a clock that only tests move.

mod accounts;
mod books;
mod budgets;
mod cache;
mod conservation;
mod ends;
mod flights;
mod full;
mod given;
mod identity;
mod leases;
mod limits;
mod models;
mod policies;
mod races;
mod rig;
mod settling;
mod stages;
mod tenants;
mod tensor_books;
mod tensor_cache;
mod tensor_conservation;
mod tensors;
