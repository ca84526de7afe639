// The rolling buffers' descriptors and tokens: what each is, how many rows are finished, freed and stored.
module scanline_buffer_table
  import scanline_pkg::*;
  import scanline_row_pkg::*;
(
    input  logic clk_i,
    // BUFFER: configure and start at row 0
    input  logic set_i,
    input  logic [BufferBits-1:0] set_id_i,
    input  buffer_config_t set_config_i,
    // views, combinational
    input  logic [BufferBits-1:0] load_id_i,
    output buffer_view_t load_view_o,
    input  logic [BufferBits-1:0] source_id_i,
    output buffer_view_t source_view_o,
    input  logic [BufferBits-1:0] destination_id_i,
    output buffer_view_t destination_view_o,
    input  logic [BufferBits-1:0] add_id_i,
    output buffer_view_t add_view_o,
    input  logic [BufferBits-1:0] store_id_i,
    output buffer_view_t store_view_o,
    // producers claim the next row, later report it finished
    input  logic load_claim_i,
    input  logic conv_claim_i,
    input  row_done_t load_done_i,
    input  row_done_t conv_done_i,
    // consumers free rows: every row below the given one
    input  rows_freed_t front_free_i,
    input  rows_freed_t free_source_i,
    input  rows_freed_t free_add_i,
    input  logic store_claim_i,
    input  logic store_free_i,
    input  logic [15:0] store_free_to_i
);
  localparam int unsigned Views = 5;
  localparam int unsigned LoadView = 0, SourceView = 1, DestinationView = 2, AddView = 3, StoreView = 4;
  logic [Views-1:0][BufferBits-1:0] id;
  buffer_view_t [Views-1:0] view;
  assign id[LoadView] = load_id_i;
  assign id[SourceView] = source_id_i;
  assign id[DestinationView] = destination_id_i;
  assign id[AddView] = add_id_i;
  assign id[StoreView] = store_id_i;
  assign load_view_o = view[LoadView];
  assign source_view_o = view[SourceView];
  assign destination_view_o = view[DestinationView];
  assign add_view_o = view[AddView];
  assign store_view_o = view[StoreView];

  buffer_config_t cfg_q[Buffers];
  always_ff @(posedge clk_i) begin
    if (set_i) cfg_q[set_id_i] <= set_config_i;
  end

  // Who writes has memories of its own: with a halo, a buffer has two producers. BUFFER comes only while it is idle.
  typedef struct packed {
    logic [15:0] row;
    logic [15:0] slot;
  } place_t;
  place_t [Views-1:0] next_loaded, next_computed;

  function automatic place_t after(input logic [15:0] row, input logic [15:0] slot, input logic [15:0] rows);
    after.row  = row + 16'd1;
    after.slot = (slot + 16'd1 == rows) ? '0 : slot + 16'd1;
  endfunction

  scanline_row_marks #(
      .Readers(Views),
      .Bits($bits(place_t))
  ) u_next_loaded (
      .clk_i,
      .clear_i(set_i),
      .clear_id_i(set_id_i),
      .write_i(load_claim_i),
      .write_id_i(load_id_i),
      .write_data_i(after(view[LoadView].next_row, view[LoadView].next_slot, view[LoadView].cfg.rows)),
      .read_id_i(id),
      .read_data_o(next_loaded)
  );
  scanline_row_marks #(
      .Readers(Views),
      .Bits($bits(place_t))
  ) u_next_computed (
      .clk_i,
      .clear_i(set_i),
      .clear_id_i(set_id_i),
      .write_i(conv_claim_i),
      .write_id_i(destination_id_i),
      .write_data_i(after(view[DestinationView].next_row, view[DestinationView].next_slot, view[DestinationView].cfg.rows)),
      .read_id_i(id),
      .read_data_o(next_computed)
  );

  // The last reader is the writer itself, which counts.
  logic [Views:0][15:0] done_loaded, done_computed;
  scanline_row_marks #(
      .Readers(Views + 1)
  ) u_done_loaded (
      .clk_i,
      .clear_i(set_i),
      .clear_id_i(set_id_i),
      .write_i(load_done_i.valid),
      .write_id_i(load_done_i.id),
      .write_data_i(done_loaded[Views] + 16'd1),
      .read_id_i({load_done_i.id, id}),
      .read_data_o(done_loaded)
  );
  scanline_row_marks #(
      .Readers(Views + 1)
  ) u_done_computed (
      .clk_i,
      .clear_i(set_i),
      .clear_id_i(set_id_i),
      .write_i(conv_done_i.valid),
      .write_id_i(conv_done_i.id),
      .write_data_i(done_computed[Views] + 16'd1),
      .read_id_i({conv_done_i.id, id}),
      .read_data_o(done_computed)
  );

  logic [Views-1:0][15:0] stored, freed_front, freed_source, freed_add, freed_store;
  scanline_row_marks #(
      .Readers(Views)
  ) u_stored (
      .clk_i,
      .clear_i(set_i),
      .clear_id_i(set_id_i),
      .write_i(store_claim_i),
      .write_id_i(store_id_i),
      .write_data_i(view[StoreView].stored + 16'd1),
      .read_id_i(id),
      .read_data_o(stored)
  );
  scanline_row_marks #(
      .Readers(Views)
  ) u_freed_front (
      .clk_i,
      .clear_i(set_i),
      .clear_id_i(set_id_i),
      .write_i(front_free_i.valid),
      .write_id_i(front_free_i.id),
      .write_data_i(front_free_i.to),
      .read_id_i(id),
      .read_data_o(freed_front)
  );
  scanline_row_marks #(
      .Readers(Views)
  ) u_freed_source (
      .clk_i,
      .clear_i(set_i),
      .clear_id_i(set_id_i),
      .write_i(free_source_i.valid),
      .write_id_i(free_source_i.id),
      .write_data_i(free_source_i.to),
      .read_id_i(id),
      .read_data_o(freed_source)
  );
  scanline_row_marks #(
      .Readers(Views)
  ) u_freed_add (
      .clk_i,
      .clear_i(set_i),
      .clear_id_i(set_id_i),
      .write_i(free_add_i.valid),
      .write_id_i(free_add_i.id),
      .write_data_i(free_add_i.to),
      .read_id_i(id),
      .read_data_o(freed_add)
  );
  scanline_row_marks #(
      .Readers(Views)
  ) u_freed_store (
      .clk_i,
      .clear_i(set_i),
      .clear_id_i(set_id_i),
      .write_i(store_free_i),
      .write_id_i(store_id_i),
      .write_data_i(store_free_to_i),
      .read_id_i(id),
      .read_data_o(freed_store)
  );

  function automatic logic [15:0] larger(input logic [15:0] a, input logic [15:0] b);
    return (a > b) ? a : b;
  endfunction

  // With two consumers a row is free when both have let it go; with none it is never.
  function automatic logic [15:0] freed(input logic by_conv, input logic by_store, input logic [15:0] conv,
                                        input logic [15:0] store);
    if (by_conv && by_store) return (conv < store) ? conv : store;
    if (by_conv) return conv;
    if (by_store) return store;
    return '0;
  endfunction

  always_comb begin
    for (int unsigned i = 0; i < Views; i++) begin
      place_t next;
      logic by_load;
      view[i].cfg = cfg_q[id[i]];
      // Of a row with a halo each producer counts for itself; a reader's rows are within reach of either count.
      next = (view[i].cfg.loaded || (i == LoadView)) ? next_loaded[i] : next_computed[i];
      view[i].next_row = next.row;
      view[i].next_slot = next.slot;
      view[i].computed = done_computed[i];
      view[i].done = done_computed[i];
      by_load = view[i].cfg.loaded || (view[i].cfg.halo != '0);
      if (view[i].cfg.loaded || (by_load && done_loaded[i] < done_computed[i])) view[i].done = done_loaded[i];
      // Convolutions write in order, so what overwrites a row comes after its last read even where the row is still to
      // be added to one under way. A load does not.
      view[i].free_late = by_load && view[i].cfg.operand;
      // Rows are freed in order, so the largest mark is the last.
      view[i].freed = freed(view[i].cfg.freed_by_conv, view[i].cfg.freed_by_store,
                            larger(larger(freed_front[i], freed_source[i]), freed_add[i]), freed_store[i]);
      view[i].stored = stored[i];
    end
  end

`ifdef SCANLINE_ASSERTIONS
  `include "scanline_assert.svh"
  // Rows claimed and not yet done, by buffer.
  logic [15:0] check_loading_q[Buffers], check_computing_q[Buffers];
  always_ff @(posedge clk_i) begin
    if (load_claim_i) check_loading_q[load_id_i] <= check_loading_q[load_id_i] + 16'd1 -
        16'(load_done_i.valid && (load_done_i.id == load_id_i));
    if (load_done_i.valid && !(load_claim_i && (load_done_i.id == load_id_i))) begin
      check_loading_q[load_done_i.id] <= check_loading_q[load_done_i.id] - 16'd1;
    end
    if (conv_claim_i) check_computing_q[destination_id_i] <= check_computing_q[destination_id_i] + 16'd1 -
        16'(conv_done_i.valid && (conv_done_i.id == destination_id_i));
    if (conv_done_i.valid && !(conv_claim_i && (conv_done_i.id == destination_id_i))) begin
      check_computing_q[conv_done_i.id] <= check_computing_q[conv_done_i.id] - 16'd1;
    end
    if (set_i) begin
      check_loading_q[set_id_i] <= '0;
      check_computing_q[set_id_i] <= '0;
    end
  end
  always_ff @(posedge clk_i) begin
    `SCANLINE_ASSERT(RowsNotEmpty, !set_i || (set_config_i.rows != '0))
    `SCANLINE_ASSERT(LoadClaimFits, !load_claim_i || (16'(load_view_o.next_row - load_view_o.freed) < load_view_o.cfg.rows))
    `SCANLINE_ASSERT(LoadClaimInFrame, !load_claim_i || (load_view_o.next_row < load_view_o.cfg.height))
    `SCANLINE_ASSERT(LoadSlotInRange, !load_claim_i || (load_view_o.next_slot < load_view_o.cfg.rows))
    `SCANLINE_ASSERT(ConvClaimFits, !conv_claim_i ||
        (16'(destination_view_o.next_row - destination_view_o.freed) < destination_view_o.cfg.rows))
    `SCANLINE_ASSERT(ConvClaimInFrame, !conv_claim_i || (destination_view_o.next_row < destination_view_o.cfg.height))
    `SCANLINE_ASSERT(ConvSlotInRange, !conv_claim_i || (destination_view_o.next_slot < destination_view_o.cfg.rows))
    `SCANLINE_ASSERT(LoadDoneWasClaimed, !load_done_i.valid || (check_loading_q[load_done_i.id] != '0))
    `SCANLINE_ASSERT(ConvDoneWasClaimed, !conv_done_i.valid || (check_computing_q[conv_done_i.id] != '0))
    `SCANLINE_ASSERT(StoreClaimIsDone, !store_claim_i || (store_view_o.stored < store_view_o.done))
    `SCANLINE_ASSERT(StoreClaimInFrame, !store_claim_i || (store_view_o.stored < store_view_o.cfg.height))
    `SCANLINE_ASSERT(StoreFreesStored, !store_free_i || (store_free_to_i <= store_view_o.stored))
  end
`endif
endmodule
