package intake

import (
	"github.com/holdfast-csi/holdfast/pkg/manifest"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// Request asks for an import.
type Request struct {
	Name string `json:"name"`
	// Pool is the name of a pool; "" leaves the choice to the driver.
	Pool string `json:"pool"`
	// Size is in bytes; 0 means the smallest that is sensible.
	Size volume.Bytes `json:"size"`
	// Mode is filesystem or block, "" what the source suggests; so are FSType and
	// SectorSize.
	Mode       volume.Mode   `json:"mode"`
	FSType     volume.FSType `json:"fsType"`
	SectorSize int           `json:"sectorSize"`
	// What the objects are to say.
	Namespace     string `json:"namespace"`
	Claim         string `json:"claim"`
	StorageClass  string `json:"storageClass"`
	ReclaimPolicy string `json:"reclaimPolicy"`
	AccessMode    string `json:"accessMode"`
}

// Progress is how far an import is, in bytes, of which each counts twice: when it is
// copied, and when it is read back.
type Progress struct {
	Done  volume.Bytes `json:"done"`
	Total volume.Bytes `json:"total"`
}

// Result is what was imported.
type Result struct {
	// ID is the volume's, Name what it was asked for under, Pool the name of its pool.
	ID   volume.ID `json:"id"`
	Name string    `json:"name"`
	Pool string    `json:"pool"`
	// Size is the volume's, Content what of the source is no hole, both in bytes.
	Size    volume.Bytes `json:"size"`
	Content volume.Bytes `json:"content"`
	// Entries is how many files and directories were copied, 0 for an image.
	Entries int `json:"entries"`
	// Mode, FSType and SectorSize are the volume's.
	Mode       volume.Mode   `json:"mode"`
	FSType     volume.FSType `json:"fsType"`
	SectorSize int           `json:"sectorSize"`
	// Existed says that the same import had been made before.
	Existed bool `json:"existed"`
	// Notes are what a person should know.
	Notes []string `json:"notes"`
	// The objects to apply.
	PersistentVolume      manifest.PersistentVolume      `json:"persistentVolume"`
	PersistentVolumeClaim manifest.PersistentVolumeClaim `json:"persistentVolumeClaim"`
}

// answer is one line from the driver.
type answer struct {
	Progress *Progress `json:"progress,omitempty"`
	Result   *Result   `json:"result,omitempty"`
	Error    string    `json:"error,omitempty"`
}
