package rpc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

func testOperations(base context.Context) *operations {
	return newOperations(base, time.Minute, time.Second, &callLog{slog.New(slog.DiscardHandler)})
}

// method is what a service does for a request.
type method func(ctx context.Context, req any) (any, error)

func (s *operations) try(ctx context.Context, req any, m method) (any, error) {
	keys, _ := keysOf(req)
	return s.do(ctx, fmt.Sprintf("/csi.v1.Test/%T", req), req, keys, func(ctx context.Context, req any) (any, error) { return m(ctx, req) })
}

func takes(d time.Duration, answer string) method {
	return func(context.Context, any) (any, error) {
		time.Sleep(d)
		return answer, nil
	}
}

func create(name string) *csi.CreateVolumeRequest { return &csi.CreateVolumeRequest{Name: name} }

func remove(name string) *csi.DeleteVolumeRequest {
	return &csi.DeleteVolumeRequest{VolumeId: volumeID(name)}
}

func TestIdenticalCallsShareOneRunAndOneAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ops := testOperations(t.Context())
		var runs atomic.Int32
		var callers sync.WaitGroup
		for i := range 10 {
			callers.Go(func() {
				time.Sleep(time.Duration(i) * time.Second)
				answer, err := ops.try(t.Context(), create("v"), func(context.Context, any) (any, error) {
					time.Sleep(30 * time.Second)
					return runs.Add(1), nil
				})
				if err != nil || answer != int32(1) {
					t.Errorf("got %v, %v", answer, err)
				}
			})
		}
		callers.Wait()
		if runs.Load() != 1 {
			t.Errorf("%d runs", runs.Load())
		}
	})
}

func TestCallThatDiffersIsAbortedAfterItsPatience(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ops := testOperations(t.Context())
		go func() { _, _ = ops.try(t.Context(), create("v"), takes(10*time.Second, "")) }()
		synctest.Wait()
		larger := create("v")
		larger.CapacityRange = &csi.CapacityRange{RequiredBytes: 1}
		for what, req := range map[string]any{"delete by id": remove("v"), "other create": larger} {
			start := time.Now()
			_, err := ops.try(t.Context(), req, takes(0, ""))
			if Code(err) != codes.Aborted || time.Since(start) != time.Second {
				t.Errorf("%s: after %s: %v", what, time.Since(start), err)
			}
			if !strings.Contains(err.Error(), `CreateVolumeRequest of "v" has been running for `) {
				t.Errorf("%s: the error does not name what is running: %v", what, err)
			}
		}
		time.Sleep(time.Minute)
		if _, err := ops.try(t.Context(), remove("v"), takes(0, "")); err != nil {
			t.Errorf("afterwards: %v", err)
		}
	})
}

func TestCallThatDiffersRunsWhenTheFirstEndsInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ops := testOperations(t.Context())
		go func() { _, _ = ops.try(t.Context(), create("v"), takes(900*time.Millisecond, "")) }()
		synctest.Wait()
		if _, err := ops.try(t.Context(), remove("v"), takes(0, "")); err != nil {
			t.Error(err)
		}
	})
}

func TestCallAfterTheAnswerNeverMeetsTheOldLock(t *testing.T) {
	ops := testOperations(t.Context())
	ops.patience = -1
	for range 2000 {
		if _, err := ops.try(t.Context(), create("v"), takes(0, "")); err != nil {
			t.Fatal(err)
		}
		if _, err := ops.try(t.Context(), remove("v"), takes(0, "")); err != nil {
			t.Fatal(err)
		}
	}
	wantEmpty(t, ops.locks)
}

func TestOperationThatIsStillWaitingForItsLockIsJoined(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ops := testOperations(t.Context())
		go func() { _, _ = ops.try(t.Context(), create("v"), takes(500*time.Millisecond, "")) }()
		synctest.Wait()
		var runs atomic.Int32
		var callers sync.WaitGroup
		for range 3 {
			callers.Go(func() {
				_, err := ops.try(t.Context(), remove("v"), func(context.Context, any) (any, error) {
					runs.Add(1)
					return "", nil
				})
				if err != nil {
					t.Error(err)
				}
			})
		}
		callers.Wait()
		if runs.Load() != 1 {
			t.Errorf("%d runs", runs.Load())
		}
	})
}

func TestOperationThatNobodyWaitsForNeverBegins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ops := testOperations(t.Context())
		go func() { _, _ = ops.try(t.Context(), create("v"), takes(900*time.Millisecond, "")) }()
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		began := false
		_, err := ops.try(ctx, remove("v"), func(context.Context, any) (any, error) {
			began = true
			return "", nil
		})
		if Code(err) != codes.DeadlineExceeded || !strings.Contains(err.Error(), "nothing was done") {
			t.Errorf("got %v", err)
		}
		if err := ops.wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		if began {
			t.Error("it began")
		}
		wantEmpty(t, ops.locks)
	})
}

func TestOperationGoesOnToItsOwnDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ops := testOperations(t.Context())
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		var lived time.Duration
		_, err := ops.try(ctx, create("v"), func(ctx context.Context, _ any) (any, error) {
			<-ctx.Done()
			lived = time.Since(start)
			return nil, ctx.Err()
		})
		if Code(err) != codes.DeadlineExceeded || time.Since(start) != time.Second {
			t.Errorf("the caller had after %s: %v", time.Since(start), err)
		}
		if err := ops.wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		if lived != time.Minute {
			t.Errorf("the operation lived %s", lived)
		}
	})
}

func TestCallerWithoutDeadlineIsToldOfAStuckOperation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ops := testOperations(t.Context())
		start := time.Now()
		_, err := ops.try(context.Background(), create("v"), takes(time.Hour, ""))
		if Code(err) != codes.DeadlineExceeded || time.Since(start) > 2*time.Minute {
			t.Errorf("after %s: %v", time.Since(start), err)
		}
		if _, err := ops.try(t.Context(), remove("v"), takes(0, "")); Code(err) != codes.Aborted {
			t.Errorf("a stuck operation must keep its locks, got %v", err)
		}
		if err := ops.wait(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
}

func TestPublishesOfOneVolumeRunTogetherAndOfOneTargetDoNot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ops := testOperations(t.Context())
		publish := func(target string) *csi.NodePublishVolumeRequest {
			return &csi.NodePublishVolumeRequest{VolumeId: volumeID("v"), TargetPath: target}
		}
		go func() { _, _ = ops.try(t.Context(), publish("/pods/a/mount"), takes(10*time.Second, "")) }()
		synctest.Wait()
		start := time.Now()
		if _, err := ops.try(t.Context(), publish("/pods/b/mount"), takes(0, "")); err != nil || time.Since(start) != 0 {
			t.Errorf("other target: after %s: %v", time.Since(start), err)
		}
		unpublish := &csi.NodeUnpublishVolumeRequest{VolumeId: volumeID("v"), TargetPath: "/pods/a//mount/"}
		if _, err := ops.try(t.Context(), unpublish, takes(0, "")); Code(err) != codes.Aborted {
			t.Errorf("same target: %v", err)
		}
		unstage := &csi.NodeUnstageVolumeRequest{VolumeId: volumeID("v"), StagingTargetPath: "/staging"}
		if _, err := ops.try(t.Context(), unstage, takes(0, "")); Code(err) != codes.Aborted {
			t.Errorf("unstage during publish: %v", err)
		}
		time.Sleep(time.Minute)
	})
}

func TestManyRestoresOfOneSnapshotRunTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ops := testOperations(t.Context())
		var callers sync.WaitGroup
		start := time.Now()
		for i := range 32 {
			callers.Go(func() {
				req := create(fmt.Sprintf("restore-%d", i))
				req.VolumeContentSource = &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Snapshot{
					Snapshot: &csi.VolumeContentSource_SnapshotSource{SnapshotId: snapshotID("s")},
				}}
				if _, err := ops.try(t.Context(), req, takes(5*time.Second, "")); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		deleteSnapshot := &csi.DeleteSnapshotRequest{SnapshotId: snapshotID("s")}
		if _, err := ops.try(t.Context(), deleteSnapshot, takes(0, "")); Code(err) != codes.Aborted {
			t.Errorf("delete of a snapshot in use: %v", err)
		}
		callers.Wait()
		if took := time.Since(start); took != 5*time.Second {
			t.Errorf("took %s", took)
		}
	})
}

func TestErrorHasNoResponse(t *testing.T) {
	ops := testOperations(t.Context())
	resp, err := ops.try(t.Context(), create("v"), func(context.Context, any) (any, error) {
		return "half an answer", volume.ErrNoSpace
	})
	if resp != nil || Code(err) != codes.ResourceExhausted {
		t.Errorf("got %v, %v", resp, err)
	}
}

func TestMethodWhoseGoroutineExitsIsInternal(t *testing.T) {
	ops := testOperations(t.Context())
	_, err := ops.try(t.Context(), create("v"), func(context.Context, any) (any, error) {
		runtime.Goexit()
		return nil, nil
	})
	if Code(err) != codes.Internal {
		t.Errorf("got %v", err)
	}
	if err := ops.wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantEmpty(t, ops.locks)
}

func TestForcedStopIsUnavailable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base, abort := context.WithCancel(t.Context())
		ops := testOperations(base)
		go func() {
			time.Sleep(500 * time.Millisecond)
			abort()
		}()
		var callers sync.WaitGroup
		for what, req := range map[string]any{"running": create("v"), "waiting": remove("v")} {
			callers.Go(func() {
				_, err := ops.try(t.Context(), req, func(ctx context.Context, _ any) (any, error) {
					<-ctx.Done()
					return nil, fmt.Errorf("make filesystem: %w", ctx.Err())
				})
				if Code(err) != codes.Unavailable || !errors.Is(err, volume.ErrUnavailable) {
					t.Errorf("%s: %v", what, err)
				}
			})
		}
		callers.Wait()
	})
}

func TestNobodyCanJoinOnceTheLocksAreFree(t *testing.T) {
	ops := testOperations(t.Context())
	req := create("v")
	op := &operation{print: fingerprintOf("m", req), method: "m", req: req, done: make(chan struct{})}
	looked := false
	// Called at the end of the run, after the locks were given back.
	op.dismiss = func() {
		looked = true
		wantEmpty(t, ops.locks)
		if ops.current[op.print] != nil {
			t.Error("can still be joined")
		}
		select {
		case <-op.done:
			t.Error("the callers have their answer, and might call again before this point")
		default:
		}
	}
	ops.current[op.print] = op
	ops.all[op] = struct{}{}
	keys, _ := keysOf(req)
	ops.run(t.Context(), op, keys, func(context.Context, any) (any, error) { return "answer", nil })
	if !looked || op.resp != "answer" {
		t.Errorf("looked: %v, answer %v", looked, op.resp)
	}
}

// TestRandomCallsNeverOverlapOnAnObject runs creates and deletes of few names by
// many callers that come and go. Runs on one object are alone, and no answer is
// older than a run that had begun when the call was made: a call must not join an
// operation whose locks somebody else already had.
func TestRandomCallsNeverOverlapOnAnObject(t *testing.T) {
	ops := testOperations(context.Background())
	ops.patience = 5 * time.Millisecond
	var inside, begun [4]atomic.Int32
	var callers sync.WaitGroup
	for w := range 24 {
		callers.Go(func() {
			for i := range 300 {
				object := (w*31 + i*17) % len(inside)
				name := fmt.Sprintf("v%d", object)
				var req any = create(name)
				if (w+i)%3 == 0 {
					req = remove(name)
				}
				ctx, cancel := context.WithTimeout(context.Background(), time.Duration(i%7)*100*time.Microsecond)
				before := begun[object].Load()
				answer, err := ops.try(ctx, req, func(context.Context, any) (any, error) {
					if inside[object].Add(1) != 1 {
						t.Error("two operations on one object")
					}
					turn := begun[object].Add(1)
					runtime.Gosched()
					inside[object].Add(-1)
					return turn, nil
				})
				cancel()
				switch Code(err) {
				case codes.OK:
					if answer.(int32) < before {
						t.Errorf("answer of run %d for a call made after run %d began", answer, before)
					}
				case codes.Aborted, codes.DeadlineExceeded:
				default:
					t.Error(err)
				}
			}
		})
	}
	callers.Wait()
	if err := ops.wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantEmpty(t, ops.locks)
	if len(ops.current) != 0 {
		t.Errorf("%d operations left", len(ops.current))
	}
}
